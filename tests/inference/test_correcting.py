"""Corrections by a model with a corrector: tries, embedders, what rows depend on."""

import functools

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest

from energyflow_mlx.build.model import build_model
from energyflow_mlx.data.batching import pad_rows
from energyflow_mlx.errors import InputError
from energyflow_mlx.inference import SentenceCodec
from energyflow_mlx.inference.correcting import Rounds, guess_of
from energyflow_mlx.nn.losses import cosine
from energyflow_mlx.text.corrector import Guess
from energyflow_mlx.text.generation import Decoding
from tests.build.tiny import (
    SENTENCES,
    E,
    make_codec,
    make_config,
    teacher_vectors,
    tokenizer,
    trained_codec,
)
from tests.inference.test_codec import unit_rows, unseen

PARTS = {"encoder", "decoder", "shared", "corrector"}


def planted(codec, shift):
    """Guesses that are each another of the sentences."""
    texts = SENTENCES[shift:] + SENTENCES[:shift]
    return guess_of(codec.tokenizer.encode(texts, 32), teacher_vectors(texts))


@functools.cache
def codec_with_corrector(steps=80):
    """A codec that learnt to mend guesses, and little else: it writes badly at first.

    Its decoder saw the sentences with wrong guesses beside them, and seldom without.
    """
    mx.random.seed(0)
    config = make_config(decoder__corrector=True, decoder__conditioning="additive")
    words = tokenizer()
    model = build_model(config, PARTS, words.vocab_size, E)
    codec = SentenceCodec(model, words, config, E)
    ids, mask = map(mx.array, pad_rows(words.encode(SENTENCES, 32), 16))
    target = mx.array(teacher_vectors(SENTENCES))

    def loss(model, guess):
        features = model.decode_features(ids[:, :-1], mask[:, :-1], target, guess=guess)
        logits = model.decoder.logits(features)
        losses = nn.losses.cross_entropy(logits, ids[:, 1:]) * mask[:, 1:]
        return losses.sum() / mask[:, 1:].sum() + mx.mean(
            1 - cosine(model.encode(ids, mask), target)
        )

    optimizer, step = optim.Adam(1e-2), nn.value_and_grad(model, loss)
    for number in range(steps):
        wrong = Guess(*map(mx.array, planted(codec, number % 17 + 1)))
        _, gradients = step(model, wrong if number % 8 else None)
        optimizer.update(model, gradients)
        mx.eval(model.parameters(), optimizer.state)
    model.eval()
    codec.teach(lambda texts: teacher_vectors([t if t.split() else "?" for t in texts]))
    return codec


def rounds(codec, vectors, **settings):
    """Texts and cosines after each number of corrections."""
    decoding = Decoding(max_length=16, **settings)
    (batch,) = codec.corrected(vectors, decoding)
    return [(codec.tokenizer.decode(found.ids), found.cosine) for found in batch]


def test_a_corrector_mends_planted_wrong_guesses():
    codec = codec_with_corrector()
    vectors = teacher_vectors(SENTENCES)
    for shift in (1, 5):
        ids = codec._generator(
            vectors, Decoding(max_length=16), guess=planted(codec, shift)
        )
        mended = codec.tokenizer.decode(ids)
        right = sum(a == b for a, b in zip(mended, SENTENCES, strict=True))
        assert right >= 16, mended


def test_what_is_written_depends_on_the_guess():
    codec, vectors = codec_with_corrector(), unseen()
    written = []
    for shift in (1, 5):
        guess = Guess(*(a[: len(vectors)] for a in planted(codec, shift)))
        written.append(codec._generator(vectors, Decoding(max_length=16), guess=guess))
    assert (written[0] != written[1]).any()


def test_a_guess_is_compared_with_the_target_wherever_the_condition_has_moved():
    codec, heard = codec_with_corrector(), []
    generator, vectors = codec._generator, unseen()

    def watched(z, decoding, *, numbers, guess, told):
        heard.append((z, guess, told))
        return generator(z, decoding, numbers=numbers, guess=guess, told=told)

    codec._generator = watched
    try:
        codec.decode(vectors, corrections=1, max_length=8)
    finally:
        codec._generator = generator
    (_, none, _), (moved, guess, told) = heard
    assert none is None and len(guess.ids) == len(vectors)
    np.testing.assert_array_equal(told, vectors)
    assert np.abs(moved - vectors).max() > 0.01


def test_corrections_read_the_guess_and_raise_the_cosine():
    codec, vectors = codec_with_corrector(), teacher_vectors(SENTENCES)
    found = rounds(codec, vectors, corrections=3, embedder="teacher")
    cosines = [cosine for _, cosine in found]
    assert cosines[-1].mean() > cosines[0].mean() + 0.05
    exact = [sum(a == b for a, b in zip(t, SENTENCES, strict=True)) for t, _ in found]
    assert exact[-1] > exact[0]


@pytest.mark.parametrize(
    "settings", [{}, {"samples": 3}, {"temperature": 1.0}, {"edits": 6}]
)
@pytest.mark.parametrize("make", [codec_with_corrector, trained_codec])
def test_the_cosine_of_a_row_never_falls(make, settings):
    vectors = unseen() + 0.1 * unit_rows(len(unseen()))
    found = rounds(make(), vectors, corrections=4, **settings)
    assert len(found) == 5
    for (_, before), (_, after) in zip(found, found[1:], strict=False):
        assert (after >= before).all()


@pytest.mark.parametrize(
    "settings",
    [
        {"corrections": 2},
        {"samples": 3},
        {"corrections": 2, "samples": 2},
        {"corrections": 2, "edits": 6},
    ],
)
def test_a_text_does_not_depend_on_how_the_list_is_cut(settings):
    codec, vectors = codec_with_corrector(), unseen()
    whole = codec.decode(vectors, max_length=16, seed=3, **settings)
    assert len(set(whole)) > 3
    cut = codec.decode(vectors, max_length=16, seed=3, batch_size=5, **settings)
    assert cut == whole


def test_a_greedy_text_does_not_depend_on_the_order_of_the_rows():
    codec, vectors = codec_with_corrector(), unseen()
    order = np.random.default_rng(0).permutation(len(vectors))
    whole = codec.decode(vectors, corrections=2, max_length=16)
    turned = codec.decode(vectors[order], corrections=2, max_length=16)
    assert turned == [whole[i] for i in order]


def test_no_corrections_is_decoding_without_a_corrector():
    codec, vectors = codec_with_corrector(), unseen()
    alone = SentenceCodec(codec.model, codec.tokenizer, codec.config, E)
    alone._generator._corrector = None
    plain = alone.decode(vectors, max_length=16)
    assert codec.decode(vectors, max_length=16) == plain
    ((texts, _),) = rounds(codec, vectors, corrections=0)
    assert texts == plain


def test_more_tries_are_no_worse_and_the_first_of_them_is_greedy():
    codec, vectors = codec_with_corrector(), unseen()
    ((_, one),) = rounds(codec, vectors, samples=1)
    ((_, many),) = rounds(codec, vectors, samples=6)
    assert (many >= one - 1e-6).all() and (many > one + 0.01).any()
    ((_, other),) = rounds(codec, vectors, samples=6, seed=9)
    assert (many != other).any()


def test_rounds_of_a_corrector_draw_other_numbers():
    codec, heard = codec_with_corrector(), []
    generator = codec._generator

    def watched(z, decoding, *, numbers, guess, told):
        if guess is not None or not heard:
            heard.append(numbers)
        return generator(z, decoding, numbers=numbers, guess=guess, told=told)

    codec._generator = watched
    try:
        codec.decode(unseen(), corrections=2, samples=3, max_length=8)
    finally:
        codec._generator = generator
    each = [set(numbers.tolist()) for numbers in heard]
    assert len(each) == 5  # greedy ones of round 0, all that read a guess
    assert not any(a & b for i, a in enumerate(each) for b in each[:i])


def test_the_embedder_is_whose_vectors_judge():
    codec, vectors = codec_with_corrector(), unseen()
    for name in ("student", "teacher"):
        ((texts, cosine),) = rounds(codec, vectors, samples=2, embedder=name)
        own = codec.embedder(name)(texts)
        own = own / np.linalg.norm(own, axis=1, keepdims=True)
        np.testing.assert_allclose(cosine, (own * vectors).sum(axis=1), atol=1e-4)


def test_a_teacher_of_vectors_alone_cannot_judge():
    codec = make_codec()
    codec.config.teacher.kind = "precomputed"
    with pytest.raises(InputError, match="embedder must be student: .* file of vect"):
        codec.decode(unit_rows(1), corrections=1, embedder="teacher")


def test_a_decoder_alone_is_told_of_the_teacher():
    codec = make_codec(parts={"decoder", "shared"})
    with pytest.raises(InputError, match="no encoder; embedder=teacher compares"):
        codec.decode(unit_rows(1), samples=2)


def test_a_folder_keeps_the_corrector(tmp_path):
    codec, vectors = codec_with_corrector(), unseen()
    codec.save_pretrained(tmp_path / "model")
    again = SentenceCodec.from_pretrained(tmp_path / "model")
    assert "corrector" in again.model
    settings = {"corrections": 2, "max_length": 16}
    assert again.decode(vectors, **settings) == codec.decode(vectors, **settings)


def test_few_bits_are_refused_for_a_corrector(tmp_path):
    with pytest.raises(InputError, match="for a model with corrector, got int8"):
        codec_with_corrector().save_pretrained(tmp_path / "model", dtype="int8")


@pytest.mark.parametrize("samples", [1, 2, 3, 8])
def test_a_round_makes_as_many_tries_of_a_row_as_asked_for(samples, monkeypatch):
    """However many of its guesses go on."""
    made, tries_of = [], Rounds._tries

    def counted(self, attempt, *settings):
        tries = tries_of(self, attempt, *settings)
        made.append((attempt.round, tries.shape[0] * tries.shape[1]))
        return tries

    monkeypatch.setattr(Rounds, "_tries", counted)
    codec_with_corrector().decode(unseen()[:1], samples=samples, corrections=3)
    of_round = [sum(n for number, n in made if number == r) for r in range(4)]
    assert of_round[0] == samples and max(of_round) <= samples
    assert len({number for number, _ in made}) > 1


def test_half_as_many_guesses_as_tries_go_on(monkeypatch):
    asked, tries_of = [], Rounds._tries

    def watched(self, attempt, *settings):
        asked.append(len(attempt.rows))
        return tries_of(self, attempt, *settings)

    monkeypatch.setattr(Rounds, "_tries", watched)
    codec_with_corrector().decode(
        unseen()[:1], samples=8, temperature=2.0, corrections=1
    )
    first, *later = asked
    assert first == 1 and sum(later) == 4


@pytest.mark.parametrize("corrections", [0, 2])
def test_edits_bring_the_last_sentences_nearer(corrections):
    codec, vectors = trained_codec(), unseen()
    plain = rounds(codec, vectors, corrections=corrections)
    edited = rounds(codec, vectors, corrections=corrections, edits=3)
    for (before, _), (after, _) in zip(plain[:-1], edited[:-1], strict=True):
        assert before == after
    assert edited[-1][1].mean() > plain[-1][1].mean() + 0.01


def test_edits_alone_are_decoding_with_an_embedder():
    codec, vectors = trained_codec(), unseen()
    ((texts, _),) = rounds(codec, vectors, edits=3)
    assert codec.decode(vectors, edits=3, max_length=16) == texts
    assert codec.decode(vectors, max_length=16) != texts


def test_edits_are_no_longer_than_the_longest_text(monkeypatch):
    lengths, edits_of_rounds = [], Rounds._edits

    def watched(self, *settings):
        of, ids = edits_of_rounds(self, *settings)
        lengths.extend((ids != self.tokenizer.special.pad).sum(axis=1).tolist())
        return of, ids

    monkeypatch.setattr(Rounds, "_edits", watched)
    trained_codec().decode(unseen(), edits=3, max_length=6)
    assert max(lengths) == 6


def test_what_is_likely_is_what_the_decoder_says():
    codec, vectors = trained_codec(), teacher_vectors(SENTENCES)
    ids, mask = pad_rows(codec.tokenizer.encode(SENTENCES, 32), 16)
    found = codec._generator.likely(ids, mask, vectors)
    tokens, real = mx.array(ids), mx.array(mask)
    features = codec.model.decode_features(
        tokens[:, :-1], real[:, :-1], mx.array(vectors)
    )
    log_p = np.array(nn.log_softmax(codec.model.decoder.logits(features), axis=-1))
    log_p[..., [codec.tokenizer.special.pad, codec.tokenizer.special.start]] = -np.inf
    log_p -= np.log(np.exp(log_p).sum(axis=-1, keepdims=True))
    is_real = mask[:, 1:] > 0
    own = np.take_along_axis(log_p, ids[:, 1:, None], axis=-1)[..., 0]
    np.testing.assert_allclose(found.own[is_real], own[is_real], atol=1e-3)
    after = np.take_along_axis(log_p[:, :-1], ids[:, 2:, None], axis=-1)[..., 0]
    inner = is_real[:, 1:]
    np.testing.assert_allclose(found.after[:, :-1][inner], after[inner], atol=1e-3)
    best = np.sort(log_p, axis=-1)[..., -found.tokens.shape[-1] :]
    likeliest = np.sort(found.log_p, axis=-1)
    np.testing.assert_allclose(likeliest[is_real], best[is_real], atol=1e-3)
    stood = np.take_along_axis(log_p, found.tokens.astype(int), axis=-1)
    np.testing.assert_allclose(found.log_p[is_real], stood[is_real], atol=1e-3)


def test_phrases_that_move_are_others_for_each_row_and_round(monkeypatch):
    drawn = []

    def watched(row, likely, count, random, tried):
        drawn.append(random.random(3).tolist())
        return []

    monkeypatch.setattr("energyflow_mlx.inference.correcting.edits_of", watched)
    codec, vectors = trained_codec(), unseen()
    codec.decode(vectors, edits=2, max_length=8)
    assert len(drawn) > len(vectors)
    assert len({tuple(numbers) for numbers in drawn}) == len(drawn)
    again, drawn[:] = list(drawn), []
    codec.decode(vectors, edits=2, max_length=8, seed=1)
    assert all(one != other for one, other in zip(drawn, again, strict=True))


def test_sentences_read_together_have_what_is_likely_in_them(monkeypatch):
    codec, vectors = trained_codec(), unseen()
    whole = codec.decode(vectors, edits=3, max_length=16)
    monkeypatch.setattr("energyflow_mlx.inference.correcting._READ_TOGETHER", 4)
    assert codec.decode(vectors, edits=3, max_length=16) == whole
