from types import SimpleNamespace
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest

from energyflow_mlx.text.decoder import TCNDecoder
from energyflow_mlx.text.generation import Decoding, Generator, beam
from energyflow_mlx.text.generation import generate as generate_module
from energyflow_mlx.text.tokenizer.vocabulary import SpecialIds
from tests.text.small import make_block, make_decoder

PAD, START, END, VOCAB = 0, 1, 2, 40
SPECIAL = SpecialIds(pad=PAD, unknown=3, start=START, end=END)
SENTENCES = [[5, 6, 7, 8], [9, 5], [10, 11, 12, 13, 14, 15], [6], [20, 21, 22]]


def generate(decoder, z, *, numbers=None, shared=(), **settings):
    generator = Generator(decoder, SPECIAL, shared)
    return generator(z, Decoding(**settings), numbers=numbers)


def random_decoder(**options):
    decoder = make_decoder(VOCAB, 12, dim=16, hidden=24, **options)
    decoder.embedding.weight = mx.random.normal((VOCAB, 16))
    decoder.output.weight = mx.random.normal((VOCAB, 16))
    for film in decoder.films if options.get("conditioning") == "film" else []:
        film.projection.weight = 0.2 * mx.random.normal((32, 12))
    return decoder


@pytest.fixture(scope="module")
def memorized():
    """A decoder that learnt to say one sentence for each of five vectors."""
    mx.random.seed(0)
    decoder = make_decoder(VOCAB, 12, dim=32, hidden=32, conditioning="film")
    z = mx.random.normal((5, 12))
    z = z / mx.linalg.norm(z, axis=-1, keepdims=True)
    rows = [[START, *s, END] for s in SENTENCES]
    ids = mx.array([row + [PAD] * (8 - len(row)) for row in rows])
    mask = mx.array([[1.0] * len(row) + [0.0] * (8 - len(row)) for row in rows])

    def loss(model):
        logits = model(ids[:, :-1], mask[:, :-1], z)
        losses = nn.losses.cross_entropy(logits, ids[:, 1:])
        return (losses * mask[:, 1:]).sum() / mask[:, 1:].sum()

    optimizer = optim.Adam(1e-2)
    step = nn.value_and_grad(decoder, loss)
    for _ in range(60):
        value, gradients = step(decoder)
        optimizer.update(decoder, gradients)
        mx.eval(decoder.parameters(), optimizer.state)
    assert float(value) < 0.05
    return decoder, z


def padded(sentences, length):
    rows = [[*s, END] + [PAD] * (length - len(s) - 1) for s in sentences]
    return np.array(rows, dtype=np.int32)


@pytest.mark.parametrize("settings", [{}, {"beams": 3}, {"temperature": 0.2}])
def test_a_trained_decoder_speaks_from_vectors_and_stops(memorized, settings):
    decoder, z = memorized
    ids = generate(decoder, z, max_length=10, **settings)
    assert ids.dtype == np.int32
    np.testing.assert_array_equal(ids, padded(SENTENCES, 10))


@pytest.fixture
def evaluated(monkeypatch):
    """Rows of every step that was handed to the device."""
    rows, evaluate = [], mx.async_eval

    def counted(*arrays):
        rows.append(arrays[0].shape[0])
        return evaluate(*arrays)

    monkeypatch.setattr(mx, "async_eval", counted)
    return rows


@pytest.mark.parametrize("wait", [0, 2])
def test_a_batch_stops_when_all_rows_have_ended(
    memorized, monkeypatch, evaluated, wait
):
    decoder, z = memorized
    monkeypatch.setattr(generate_module, "look_back", lambda: wait)
    ids = generate(decoder, z, max_length=500)
    np.testing.assert_array_equal(ids, padded(SENTENCES, 500))
    # One token per sentence and step, however many came before it.
    assert evaluated == [5] * (7 + wait)


@pytest.mark.parametrize("wait", [0, 2])
@pytest.mark.parametrize("settings", [{}, {"temperature": 0.2, "seed": 3}])
def test_rows_that_ended_are_dropped_and_the_texts_stay(
    memorized, monkeypatch, evaluated, wait, settings
):
    decoder, z = memorized
    monkeypatch.setattr(generate_module, "look_back", lambda: wait)
    monkeypatch.setattr(generate_module, "_LEAST_ROWS", 1)
    order = np.random.default_rng(0).permutation(np.repeat(np.arange(5), 8))
    ids = generate(decoder, z[mx.array(order)], max_length=9, **settings)
    np.testing.assert_array_equal(ids, padded(SENTENCES, 9)[order])
    assert evaluated[0] == 40 and set(evaluated) <= {40, 16, 8}
    assert sum(evaluated) < 40 * len(evaluated)


def test_a_sample_keeps_its_own_random_numbers_when_others_are_dropped(monkeypatch):
    decoder = random_decoder()
    decoder.output.bias = mx.zeros(VOCAB).at[END].add(9.0)
    z = mx.random.normal((40, 12))
    settings = {"temperature": 3.0, "max_length": 12, "seed": 4}
    monkeypatch.setattr(generate_module, "_LEAST_ROWS", 40)
    whole = generate(decoder, z, **settings)
    lengths = (whole == END).argmax(axis=1)
    assert 8 <= (lengths > 2).sum() <= 18 and len(np.unique(whole[:, 1])) > 5
    monkeypatch.setattr(generate_module, "_LEAST_ROWS", 1)
    np.testing.assert_array_equal(generate(decoder, z, **settings), whole)


@pytest.mark.parametrize(
    ("done", "kept"),
    [
        ([1, 1, 1, 1], []),
        ([0, 1, 0, 0], [0, 1, 2, 3]),
        ([1, 1, 0, 1], [2]),
        ([1, 0, 1, 0, 1, 1, 1, 0], [1, 3, 7, 0]),
    ],
)
def test_a_batch_is_halved_when_the_living_rows_fit(monkeypatch, done, kept):
    monkeypatch.setattr(generate_module, "_LEAST_ROWS", 1)
    assert generate_module._rows_to_keep(np.array(done, bool)).tolist() == kept


def test_a_step_is_traced_once_for_a_number_of_rows(memorized, monkeypatch):
    decoder, z = memorized
    traced, step = [], TCNDecoder.step

    def counted(self, ids, *rest):
        traced.append(ids.shape)
        return step(self, ids, *rest)

    monkeypatch.setattr(TCNDecoder, "step", counted)
    generator = Generator(decoder, SPECIAL)
    for _ in range(3):
        generator(z, Decoding(max_length=6))
        generator(z, Decoding(max_length=9))
    assert traced == [(5,)]


def test_a_generator_sees_new_weights(memorized):
    decoder, z = memorized
    mine = make_decoder(VOCAB, 12, dim=32, hidden=32, conditioning="film")
    generator = Generator(mine, SPECIAL)
    for settings in ({}, {"beams": 2}):
        generator(z, Decoding(max_length=10, **settings))
    mine.update(decoder.parameters())
    for settings in ({}, {"beams": 2}):
        ids = generator(z, Decoding(max_length=10, **settings))
        np.testing.assert_array_equal(ids, padded(SENTENCES, 10))


def test_greedy_takes_the_likeliest_token_of_the_teacher_forced_logits():
    decoder = random_decoder(conditioning="film")
    z = mx.random.normal((6, 12))
    ids = generate(decoder, z, max_length=9)
    inputs = np.concatenate([np.full((6, 1), START, np.int32), ids[:, :-1]], axis=1)
    logits = np.array(decoder(mx.array(inputs), mx.ones((6, 9)), z))
    logits[:, :, [START, PAD]] = -np.inf
    for row, col in np.ndindex(ids.shape):
        if END in ids[row, :col]:
            assert ids[row, col] == PAD
        else:
            assert ids[row, col] == logits[row, col].argmax()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 1.5},
        {"temperature": 1.5, "top_k": 7},
        {"temperature": 1.5, "top_p": 0.7},
        {"beams": 3},
    ],
)
def test_a_sentence_does_not_depend_on_its_batch(settings):
    decoder = random_decoder()
    z = mx.random.normal((7, 12))
    settings = settings | {"max_length": 9, "seed": 5}
    whole = generate(decoder, z, **settings)
    parts = [
        generate(decoder, z[a:b], numbers=np.arange(a, b), **settings)
        for a, b in ((0, 1), (1, 5), (5, 7))
    ]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_the_same_seed_gives_the_same_text_and_another_seed_another():
    decoder = random_decoder()
    z = mx.random.normal((8, 12))
    settings = {"max_length": 12, "temperature": 2.0}
    one, again, other = (generate(decoder, z, seed=s, **settings) for s in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


def test_equal_vectors_in_one_batch_may_get_different_samples():
    decoder = random_decoder()
    z = mx.broadcast_to(mx.random.normal((1, 12)), (6, 12))
    ids = generate(decoder, z, temperature=2.0, max_length=8)
    assert len({tuple(row) for row in ids.tolist()}) > 1


def test_low_temperature_and_top_k_of_one_are_greedy():
    decoder = random_decoder()
    z = mx.random.normal((4, 12))
    greedy = generate(decoder, z, max_length=8)
    for settings in ({"temperature": 1e-3}, {"temperature": 1.0, "top_k": 1}):
        np.testing.assert_array_equal(
            generate(decoder, z, max_length=8, **settings), greedy
        )


@pytest.mark.parametrize("settings", [{}, {"temperature": 3.0}, {"beams": 4}])
def test_start_and_padding_are_never_chosen_and_only_padding_follows_the_end(settings):
    decoder = random_decoder()
    decoder.output.bias = mx.zeros(VOCAB).at[mx.array([PAD, START])].add(50.0)
    decoder.output.bias = decoder.output.bias.at[END].add(9.0)
    ids = generate(decoder, mx.random.normal((9, 12)), max_length=12, **settings)
    assert (ids != START).all()
    ended = False
    for row in ids:
        ends = (row == END).nonzero()[0]
        stop = ends[0] if len(ends) else len(row)
        ended |= len(ends) > 0
        assert (row[:stop] != PAD).all() and (row[stop + 1 :] == PAD).all()
    assert ended


def exhaustive(decoder, z, length, penalty):
    """Best sentence of at most ``length`` tokens by trying them all."""
    best = (-np.inf, None)
    allowed = [
        t for t in range(decoder.output.weight.shape[0]) if t not in (PAD, START)
    ]

    def visit(prefix, score, state, token):
        nonlocal best
        logits, state = decoder.step(mx.array([token]), state)
        logits = np.array(logits)[0].astype(np.float64)
        logits[[PAD, START]] = -np.inf
        logp = logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
        for t in allowed:
            sentence, total = [*prefix, t], score + logp[t]
            if t == END or len(sentence) == length:
                value = total / len(sentence) ** penalty
                best = max(best, (value, sentence))
            else:
                visit(sentence, total, state, t)

    visit([], 0.0, decoder.init_state(z), START)
    return best[1]


class Past(NamedTuple):
    """State of the decoder below."""

    number: mx.array  # [B], stands for all tokens so far

    moving = property(lambda self: self.number)

    def moved(self, number):
        return Past(number)

    def reorder(self, rows):
        return Past(self.number[rows])


class RememberingDecoder:
    """In place of a decoder: logits are random, but a function of all tokens so far."""

    def __init__(self):
        self.output = self.embedding = SimpleNamespace(weight=mx.zeros((6, 1)))
        self.state = {"table": 2 * mx.random.normal((97, 6))}

    def init_state(self, z, shared=(), evidence=None):
        return Past(mx.zeros((z.shape[0],), mx.int32))

    def step(self, token, state, shared=(), offset=0.0):
        past = Past((7 * state[0] + token) % 97)
        return self.state["table"][past.number] + offset, past


def test_every_beam_goes_on_with_its_own_past(monkeypatch):
    for seed in range(5):
        mx.random.seed(seed)
        decoder, z = RememberingDecoder(), mx.zeros((1, 12))
        monkeypatch.setattr(beam, "DecoderState", Past)
        (found,) = generate(decoder, z, max_length=4, beams=110, length_penalty=0.5)
        expected = exhaustive(decoder, z, 4, 0.5)
        assert [t for t in found.tolist() if t != PAD] == expected


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_beam_as_wide_as_the_tree_finds_the_best_sentence(penalty):
    for seed in range(4):
        mx.random.seed(seed)
        decoder = make_decoder(6, 12, dim=8, hidden=8)
        # Strong dependence on earlier tokens, so that beams must carry their own past.
        for block in decoder.blocks:
            block.conv2.weight = block.conv2.weight * 100
        decoder.embedding.weight = 3 * mx.random.normal((6, 8))
        # Nearly equal first choices, so that the best sentence changes beams.
        decoder.output.weight = 0.5 * mx.random.normal((6, 8))
        z = mx.random.normal((3, 12))
        found = generate(decoder, z, max_length=4, beams=100, length_penalty=penalty)
        for row in range(3):
            expected = exhaustive(decoder, z[row : row + 1], 4, penalty)
            assert [t for t in found[row].tolist() if t != PAD] == expected


def test_shared_blocks_take_part():
    decoder = random_decoder(shared=1)
    shared = [make_block(16, 24, 3, 2)]
    shared[0].conv2.weight = shared[0].conv2.weight * 30
    whole = make_decoder(VOCAB, 12, dim=16, hidden=24)
    whole.update(decoder.parameters())
    whole.blocks[1].update(shared[0].parameters())
    z = mx.random.normal((4, 12))
    np.testing.assert_array_equal(
        generate(decoder, z, max_length=8, shared=shared),
        generate(whole, z, max_length=8),
    )


def test_numpy_vectors_are_taken_and_none_gives_no_sentences():
    decoder = random_decoder()
    z = mx.random.normal((3, 12))
    np.testing.assert_array_equal(
        generate(decoder, np.array(z), max_length=4),
        generate(decoder, z, max_length=4),
    )
    assert generate(decoder, z[:0], max_length=4).shape == (0, 4)
