"""What a guess adds to a decoder, all at once and token by token."""

import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.text.corrector import DILATIONS, Corrector, Guess
from tests.text.small import make_blocks, make_decoder

V, E, D, B, L, G = 40, 12, 16, 3, 7, 9


def make(*, conditioning="film", louder=0.3, **options):
    """A decoder and its corrector, whose maps from zero have become something."""
    decoder = make_decoder(V, E, dim=D, hidden=24, conditioning=conditioning, **options)
    decoder.embedding.weight = mx.random.normal((V, D))
    blocks = make_blocks(D, 24, dilations=DILATIONS, causal=False)
    films = 2 if conditioning == "film" else 0
    corrector = Corrector(E, blocks, films=films)
    for layer in (
        *(corrector.tokens, corrector.condition, corrector.output_condition),
        *(film.projection for film in corrector.films),
    ):
        layer.weight = louder * mx.random.normal(layer.weight.shape)
    return decoder, corrector


def guess_of(lengths=(9, 4, 6), seed=1):
    random = np.random.default_rng(seed)
    mask = (np.arange(G) < np.array(lengths)[:, None]).astype(np.float32)
    ids = (random.integers(1, V, (B, G)) * mask).astype(np.int32)
    vector = random.normal(size=(B, E)).astype(np.float32)
    return Guess(*map(mx.array, (ids, mask, vector)))


def read(decoder, corrector, guess, z):
    return corrector(decoder.embedding(guess.ids), guess, z)


def sentences():
    ids = mx.random.randint(0, V, (B, L))
    return ids, mx.ones((B, L)), mx.random.normal((B, E))


@pytest.mark.parametrize("conditioning", ["film", "additive"])
@pytest.mark.parametrize("output_condition", [True, False])
@pytest.mark.parametrize("coverage", [True, False])
def test_token_by_token_is_all_at_once(conditioning, output_condition, coverage):
    decoder, corrector = make(
        conditioning=conditioning, output_condition=output_condition, coverage=coverage
    )
    ids, mask, z = sentences()
    evidence = read(decoder, corrector, guess_of(), z)
    whole = decoder(ids, mask, z, evidence=evidence)
    plain = decoder(ids, mask, z)
    assert mx.abs(whole - plain).max().item() > 0.1
    state = decoder.init_state(z, evidence=evidence)
    for place in range(L):
        logits, state = decoder.step(ids[:, place], state)
        np.testing.assert_allclose(
            np.array(logits), np.array(whole[:, place]), atol=2e-4
        )


def test_a_step_beyond_the_guess_has_none():
    decoder, corrector = make()
    ids, mask, z = sentences()
    full = guess_of((3, 3, 3))
    short = Guess(full.ids[:, :3], full.mask[:, :3], full.vector)
    whole, cut = (
        decoder(ids, mask, z, evidence=read(decoder, corrector, g, z))
        for g in (full, short)
    )
    np.testing.assert_allclose(np.array(cut), np.array(whole), atol=1e-4)
    state = decoder.init_state(z, evidence=read(decoder, corrector, short, z))
    for place in range(L):
        logits, state = decoder.step(ids[:, place], state)
    np.testing.assert_allclose(np.array(logits), np.array(whole[:, -1]), atol=2e-4)


def test_a_fresh_corrector_changes_nothing():
    decoder, corrector = make(louder=0.0)
    ids, mask, z = sentences()
    found = decoder(ids, mask, z, evidence=read(decoder, corrector, guess_of(), z))
    assert mx.array_equal(found, decoder(ids, mask, z))


def test_the_guess_lies_where_its_words_would_be_predicted():
    decoder, corrector = make()
    guess, z = guess_of((9, 9, 9)), mx.random.normal((B, E))
    evidence = read(decoder, corrector, guess, z)
    assert evidence.tokens.shape == (B, G - 1, D)
    # The start token is predicted nowhere: only its neighbors show that it changed.
    other = mx.concatenate([(guess.ids[:, :1] + 1) % V, guess.ids[:, 1:]], axis=1)
    moved = read(decoder, corrector, guess._replace(ids=other), z)
    change = np.abs(np.array(moved.tokens - evidence.tokens)).max(axis=(0, 2))
    last = np.abs(np.array(moved.tokens - evidence.tokens))[:, -1].max()
    assert change[0] > 1e-3 and last < 1e-6


@pytest.mark.parametrize("place", range(4))
def test_target_guess_difference_and_product_all_count(place):
    """Each quarter of the map's input changes what is read, by itself."""
    decoder, corrector = make()
    guess, z = guess_of(), mx.random.normal((B, E))
    weight = corrector.evidence.projection.weight
    kept = (mx.arange(4 * E) // E == place).astype(mx.float32)
    corrector.evidence.projection.weight = weight * kept
    other = guess._replace(vector=guess.vector[:, ::-1])
    pairs = {0: (guess, z + 1.0), 1: (other, z), 2: (other, z), 3: (other, z)}
    one = read(decoder, corrector, guess, z).condition
    assert mx.abs(one - read(decoder, corrector, *pairs[place]).condition).max() > 1e-2


def test_the_product_is_as_large_as_the_vectors():
    decoder, corrector = make()
    projection = corrector.evidence.projection
    projection.weight = mx.eye(4 * E)[-D:]
    projection.bias = mx.zeros(D)
    z = mx.full((B, E), E**-0.5)
    guess = guess_of()._replace(vector=z)
    corrector.condition.weight, corrector.condition.bias = mx.eye(D), mx.zeros(D)
    seen = read(decoder, corrector, guess, z).condition[:, -E:]
    # Of unit vectors every part of the input has elements of 1 / sqrt(E).
    np.testing.assert_allclose(np.array(seen), (4 * E) ** 0.5 * E**-0.5, rtol=1e-5)


def test_padding_of_a_guess_does_not_count():
    decoder, corrector = make()
    guess, z = guess_of((5, 4, 5)), mx.random.normal((B, E))
    noise = mx.where(guess.mask > 0, guess.ids, 7)
    one, two = (
        read(decoder, corrector, g, z) for g in (guess, guess._replace(ids=noise))
    )
    for a, b in zip(one[:2] + (one.tokens,), two[:2] + (two.tokens,), strict=True):
        np.testing.assert_allclose(np.array(a), np.array(b), atol=1e-6)


def test_repeated_rows_are_those_of_a_beam():
    decoder, corrector = make()
    guess, z = guess_of(), mx.random.normal((B, E))
    wide = read(decoder, corrector, guess, z).repeat(2)
    rows = mx.repeat(mx.arange(B), 2)
    again = read(decoder, corrector, Guess(*(a[rows] for a in guess)), z[rows])
    for a, b in zip(wide[:2], again[:2], strict=True):
        np.testing.assert_allclose(np.array(a), np.array(b), atol=1e-5)
    np.testing.assert_allclose(
        np.array(wide.films[1][0]), np.array(again.films[1][0]), atol=1e-5
    )
    np.testing.assert_allclose(np.array(wide.tokens), np.array(again.tokens), atol=1e-5)


@pytest.mark.parametrize(
    "options", [{"causal": True}, {"shared": 1}, {"context": True}], ids=str
)
def test_blocks_must_be_its_own_see_both_sides_and_have_no_context(options):
    blocks = make_blocks(D, 24, **({"causal": False} | options))
    with pytest.raises(ValueError, match="its own, not causal and without context"):
        Corrector(E, blocks, films=0)


def test_vectors_of_another_width_are_refused():
    decoder, corrector = make()
    guess = guess_of()._replace(vector=mx.zeros((B, E + 1)))
    with pytest.raises(ValueError, match=r"must have vectors \[3, 12\] like z"):
        read(decoder, corrector, guess, mx.zeros((B, E)))
