"""Guesses in a run: what they are, whose updates they make, resuming, refusals."""

import json
import re

import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.build.objectives import build_objectives
from energyflow_mlx.config import (
    CorrectionConfig,
    DistillationConfig,
    ReconstructionConfig,
)
from energyflow_mlx.errors import InputError
from energyflow_mlx.runs import checkpoint
from energyflow_mlx.runs.metrics import read_metrics
from energyflow_mlx.training.divergence import Diverged
from energyflow_mlx.training.guesses import GuessRing
from tests.build.tiny import SENTENCES, teacher_vectors
from tests.training.small import make_trainer, objectives
from tests.training.test_parallel import (
    assert_same_curve,
    curve,
    tiny_config,
    tiny_data,
)

NAME = "correction"


def embed(texts):
    """The tiny teacher, of texts that may hold no word."""
    return teacher_vectors([text if text.split() else "nothing" for text in texts])


def both(**settings):
    own = {"lr": 1e-2, "every": 4, "count": 6, "kept": 12, "noise": 0.0} | settings
    return objectives(
        reconstruction=ReconstructionConfig(lr=1e-2), correction=CorrectionConfig(**own)
    )


def config_of(changes=None, **settings):
    fixed = {
        "decoder.corrector": True,
        "trainer.best_metric": "ce",
        "objectives": both(**settings),
    }
    return tiny_config(fixed | (changes or {}))


def trainer_in(folder, changes=None, **settings):
    mx.random.seed(0)
    data = tiny_data()
    data.embed = embed
    return make_trainer(config_of(changes, **settings), data, folder)


def texts_of(trainer, ids, mask):
    rows = [row[m > 0] for row, m in zip(np.array(ids), np.array(mask), strict=True)]
    return [trainer.codec.tokenizer.decode(row[None])[0] for row in rows]


def written(trainer, vectors):
    """Texts that the decoder writes, and what is left of them in 32 tokens."""
    words, texts = trainer.codec.tokenizer, trainer.codec.decode(vectors, max_length=32)
    return texts, [words.decode(row[None])[0] for row in words.encode(texts, 32)]


def take(trainer, count):
    updates = trainer.updates.updates(0)
    found = [next(updates) for _ in range(count)]
    updates.close()
    return found


def test_updates_of_the_correction_have_guesses_and_no_others(tmp_path):
    trainer = trainer_in(tmp_path)
    for number, (batch,) in enumerate(take(trainer, 8)):
        is_own = trainer.alternation.objective_of(number) == NAME
        assert (batch.guess is not None) == is_own


def test_the_corrector_learns_in_the_updates_of_the_correction_alone(tmp_path):
    trainer = trainer_in(tmp_path)
    weight = "corrector.tokens.weight"
    for number, update in enumerate(take(trainer, 4)):
        before = trainer.stepper.state.parameters[weight]
        trainer.run_update(number, update)
        after = trainer.stepper.state.parameters[weight]
        is_own = trainer.alternation.objective_of(number) == NAME
        assert mx.array_equal(before, after) != is_own


def test_a_guess_is_what_the_decoder_writes_of_its_sentences_vector(tmp_path):
    trainer = trainer_in(tmp_path, temperature=0.0)
    trained = [b for (b,) in take(trainer, 4) if b.guess is not None]
    assert trained
    for batch in trained:
        sentences = texts_of(trainer, batch.ids, batch.mask)
        guesses = texts_of(trainer, batch.guess.ids, batch.guess.mask)
        target = teacher_vectors(sentences)
        np.testing.assert_allclose(np.array(batch.target), target, atol=1e-6)
        texts, read = written(trainer, target)
        assert guesses == read
        own = np.array(batch.guess.vector)
        np.testing.assert_allclose(own, embed(texts), atol=1e-5)


def test_noise_and_temperature_change_the_guesses(tmp_path):
    made = {}
    for name, settings in {
        "greedy": {"temperature": 0.0},
        "drawn": {"temperature": 2.0},
        "noise": {"temperature": 0.0, "noise": 3.0},
    }.items():
        trainer = trainer_in(tmp_path / name, every=1, **settings)
        trainer.codec.model.decoder.output.weight *= 8
        found = [b.guess for (b,) in take(trainer, 4) if b.guess is not None]
        made[name] = texts_of(trainer, found[0].ids, found[0].mask)
    assert made["greedy"] != made["drawn"] != made["noise"] != made["greedy"]


def test_a_student_embeds_guesses_and_sentences_where_it_is_asked_to(tmp_path):
    group = both(embedder="student", temperature=0.0)
    group.distillation = DistillationConfig(lr=1e-2)
    changes = {"objectives": group, "trainer.best_metric": "cosine"}
    trainer = trainer_in(tmp_path, changes)
    batch = next(b for (b,) in take(trainer, 6) if b.guess is not None)
    target = np.array(batch.target)
    trainer.codec.model.eval()
    ids = [row[m > 0] for row, m in zip(*map(np.array, batch[:2]), strict=True)]
    sentences = trainer.codec.encode_ids(ids, normalize=True)
    np.testing.assert_allclose(target, sentences, atol=1e-4)
    own = trainer.codec.encode(written(trainer, target)[0])
    np.testing.assert_allclose(np.array(batch.guess.vector), own, atol=1e-4)


def test_the_ring_keeps_the_newest():
    def ring(*numbers):
        rows = [np.array([n, n], np.int32) for n in numbers]
        vectors = np.array(numbers, np.float32)[:, None]
        return GuessRing.of(rows, vectors, rows, vectors, 4)

    kept = ring(1, 2, 3).add(ring(4, 5), 3)
    assert kept.targets[:, 0].tolist() == [3, 4, 5] == kept.guess_ids[:, 1].tolist()
    assert kept.lengths.tolist() == [2, 2, 2] and kept.ids.shape == (3, 4)


def assert_resumes(tmp_path, changes, **settings):
    """Update 10, from which one run goes on, is none before which guesses are made."""
    changes = {"trainer.save_every": 2, "trainer.keep": 0} | changes
    whole = trainer_in(tmp_path / "whole", changes, **settings)
    whole.run()
    folder, name = tmp_path / "resumed", "checkpoints/step_00000010"
    (folder / "checkpoints").mkdir(parents=True)
    (tmp_path / "whole" / name).rename(folder / name)
    log = (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    (folder / "metrics.jsonl").write_bytes(log)
    resumed = trainer_in(folder, changes, **settings)
    assert resumed.progress.step == 10
    resumed.run()
    assert_same_curve(curve(folder), curve(tmp_path / "whole"), 0)
    for one, two in (
        (whole.stepper.state.arrays(), resumed.stepper.state.arrays()),
        (whole.updates.arrays(), resumed.updates.arrays()),
    ):
        assert one.keys() == two.keys()
        assert all(mx.array_equal(one[path], two[path]) for path in one)
    return whole


def test_a_run_resumes_with_the_same_bits(tmp_path):
    assert_resumes(tmp_path, {"trainer.max_steps": 14})
    losses = [
        r[f"{NAME}_loss"] for r in curve(tmp_path / "whole") if f"{NAME}_loss" in r
    ]
    assert losses[-1] < losses[0]


def test_every_micro_batch_has_its_own_guesses(tmp_path):
    changes = {"trainer.micro_batch": 2, "trainer.accumulate": 3}
    trainer = trainer_in(tmp_path, changes, temperature=0.0)
    update = next(u for u in take(trainer, 4) if u[0].guess is not None)
    assert len(update) == 3
    for batch in update:
        target = teacher_vectors(texts_of(trainer, batch.ids, batch.mask))
        np.testing.assert_allclose(np.array(batch.target), target, atol=1e-6)
        guesses = texts_of(trainer, batch.guess.ids, batch.guess.mask)
        assert guesses == written(trainer, target)[1]


def test_the_log_says_how_near_the_guesses_are_and_what_they_took(tmp_path):
    trainer_in(tmp_path, {"trainer.max_steps": 6, "trainer.log_every": 2}).run()
    rows = read_metrics(tmp_path / "metrics.jsonl")
    near = [row["guess_cosine"] for row in rows if row["kind"] == "train"]
    assert len(near) == 3 and all(-1 <= cosine <= 1 for cosine in near)
    took = [row["guess_ms"] for row in rows if row["kind"] == "timing"]
    assert took[0] > 0 and took[1] == 0 < took[2]  # before updates 0 and 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"decoder.corrector": False},
            "decoder.corrector must be true, because objectives.correction trains it",
        ),
        (
            {"objectives": objectives(reconstruction=ReconstructionConfig(lr=1e-2))},
            "decoder.corrector must be false, because reconstruction trains no corr",
        ),
        (
            {"teacher.kind": "precomputed"},
            "embedder must be student, because teacher=precomputed reads no text",
        ),
        (
            {"objectives": both(own=0.5)},
            "correction.own must be 0, because data.own_pairs.share=0 makes no own pa",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, message):
    config = config_of()
    for key, value in changes.items():
        *groups, name = key.split(".")
        place = config
        for group in groups:
            place = getattr(place, group)
        setattr(place, name, value)
    with pytest.raises(InputError, match=re.escape(message)):
        build_objectives(config)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every": 0}, "correction.every must be >= 1, got 0"),
        ({"kept": 5}, "correction.kept must be >= objectives.correction.count = 6"),
        ({"noise": -1.0}, "correction.noise must be >= 0"),
        ({"own": 1.5}, "correction.own must be <= 1, got 1.5"),
        ({"embedder": "me"}, "correction.embedder must be one of teacher, student"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(InputError, match=re.escape(message)):
        both(**settings)


def test_sentences_come_from_the_training_set(tmp_path):
    trainer = trainer_in(tmp_path, every=1)
    for (batch,) in take(trainer, 6):
        assert set(texts_of(trainer, batch.ids, batch.mask)) <= set(SENTENCES)


OWN = {
    "data.own_pairs.share": 0.5,
    "data.own_pairs.every": 2,
    "data.own_pairs.count": 24,
    "data.own_pairs.ring": 64,
    "data.own_pairs.temperature": 2.0,
    "trainer.max_steps": 14,
}


def makers(trainer):
    """What makes the pairs of a trainer, and what makes its guesses."""
    pairs, guesses = trainer.updates._makers
    return pairs, guesses


def test_a_share_of_the_guesses_is_at_own_pairs_as_they_are(tmp_path):
    settings = {"own": 0.5, "noise": 50.0, "temperature": 0.0, "kept": 99}
    changes = OWN | {"data.own_pairs.every": 99}
    trainer = trainer_in(tmp_path, changes, every=2, **settings)
    (pairs, guesses), updates = makers(trainer), trainer.updates.updates(0)
    next(updates)
    texts = [f"the {animal} sleeps." for animal in ("dog", "cats", "man", "park")]
    vectors = teacher_vectors(texts)
    pairs.ring.add(trainer.codec.tokenizer.encode(texts, 32), vectors)
    next(updates), next(updates)
    updates.close()
    # While there are no pairs all are at training sentences, then three of six.
    held = guesses._ring
    told = texts_of(trainer, held.ids, held.ids > 0)
    assert len(told) == 12 and set(told[:9]) <= set(SENTENCES)
    own = vectors[[texts.index(text) for text in told[9:]]]
    np.testing.assert_allclose(held.targets[9:], own, atol=1e-3)
    found = texts_of(trainer, held.guess_ids, held.guess_ids > 0)
    trainer.codec.model.eval()
    assert found[9:] == written(trainer, held.targets[9:])[1]  # without noise
    assert found[6:9] != written(trainer, held.targets[6:9])[1]


def test_a_run_that_guesses_at_own_pairs_resumes_with_the_same_bits(tmp_path):
    whole = assert_resumes(tmp_path, OWN, own=0.5)
    pairs, guesses = makers(whole)
    known = {row.tobytes() for row in whole.data.train_ids}
    held = zip(guesses._ring.ids, guesses._ring.lengths, strict=True)
    assert len(pairs.ring) and any(ids[:n].tobytes() not in known for ids, n in held)


def test_a_diverged_update_tells_sentences_and_guesses(tmp_path):
    trainer = trainer_in(tmp_path, every=100)
    take(trainer, 1)
    (maker,) = trainer.updates._makers
    maker._ring.vectors[:] = np.nan
    with pytest.raises(Diverged, match="not finite: guess; "):
        trainer.run()
    (path,) = (tmp_path / "diverged").iterdir()
    told = json.loads(path.read_text())
    assert told["made_of"] == "sentences and guesses"
    texts = trainer.codec.tokenizer.decode
    pairs = {
        (texts([ids[:n]])[0], texts([guess[:m]])[0])
        for ids, n, guess, m in zip(
            *(maker._ring.ids, maker._ring.lengths),
            *(maker._ring.guess_ids, maker._ring.guess_lengths),
            strict=True,
        )
    }
    assert {(s["text"], s["guess"]) for s in told["sentences"]} <= pairs


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("guess_ids", lambda a: a - 99, r"'guess_ids' must be ids in \[0, "),
        ("guess_lengths", lambda a: a * 0, "'guess_lengths' must be lengths in"),
        ("vectors", lambda a: a * np.inf, "'vectors' must be finite"),
        ("targets", lambda a: a[:, 1:], "'targets' must be float32 "),
    ],
)
def test_guesses_of_a_checkpoint_that_nobody_here_wrote_are_refused(
    tmp_path, name, change, message
):
    """The digests fit: someone wrote them anew."""
    steps = {"trainer.max_steps": 2, "trainer.save_every": 2}
    trainer_in(tmp_path / "sent", steps).run()
    arrays, meta = checkpoint.load(checkpoint.latest(tmp_path / "sent/checkpoints"))
    with np.errstate(invalid="ignore"):
        own = change(np.array(arrays[f"guesses.{name}"]))
    arrays[f"guesses.{name}"] = mx.array(own)
    checkpoint.save(tmp_path / "checkpoints", 2, arrays, meta, keep=1)
    with pytest.raises(InputError, match=message):
        trainer_in(tmp_path, steps)


def test_a_guess_without_a_vector_is_left_out(tmp_path):
    trainer = trainer_in(tmp_path, every=100)
    (maker,) = trainer.updates._makers

    def some(texts):
        vectors = np.array(embed(texts))
        vectors[1::2] = np.nan
        return vectors

    trainer.codec.teach(some)
    take(trainer, 1)
    assert len(maker._ring) == maker._made == 3
    assert np.isfinite(maker._ring.vectors).all()


def test_as_many_guesses_as_are_kept_have_the_bytes_that_are_said(tmp_path):
    trainer = trainer_in(tmp_path, every=1)
    said = trainer.updates.most_bytes
    take(trainer, 4)
    assert sum(array.nbytes for array in trainer.updates.arrays().values()) == said
