import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from energyflow_mlx.nn.tcn import TCNBlock
from energyflow_mlx.text.decoder import DecoderState
from tests.text.small import BLOCK, make_block, make_decoder

KINDS = [
    pytest.param({}, id="additive"),
    pytest.param({"conditioning": "film"}, id="film"),
    pytest.param({"tied": True}, id="tied"),
    pytest.param({"coverage": False, "output_condition": False}, id="plain"),
    pytest.param({"shared": 1}, id="shared"),
    pytest.param({"conditioning": "film", "shared": 2}, id="film-all-shared"),
]


def decoder_and_shared(**options):
    decoder = make_decoder(50, 12, dim=8, hidden=10, **options)
    shared = [make_block(8, 10, 3, 2 - i) for i in range(options.get("shared", 0))]
    for block in [*decoder.blocks, *shared]:
        block.norm.bias = mx.random.normal((8,))
        block.conv2.weight = block.conv2.weight * 10
    for film in decoder.films if "conditioning" in options else []:
        film.projection.weight = 0.2 * mx.random.normal((16, 12))
    decoder.embedding.weight = decoder.embedding.weight * 50
    return decoder, shared[::-1]


def inputs(batch=3, length=9):
    ids = mx.random.randint(0, 50, (batch, length))
    return ids, mx.ones((batch, length)), mx.random.normal((batch, 12))


@pytest.mark.parametrize("options", KINDS)
def test_a_later_token_cannot_change_earlier_logits(options):
    decoder, shared = decoder_and_shared(**options)
    ids, mask, z = inputs()
    before = np.array(decoder(ids, mask, z, shared))
    assert before.shape == (3, 9, 50)
    for t in range(1, 9):
        changed = mx.array(ids)
        changed[:, t] = (changed[:, t] + 1) % 50
        after = np.array(decoder(changed, mask, z, shared))
        np.testing.assert_array_equal(after[:, :t], before[:, :t])
        assert np.abs(after[:, t] - before[:, t]).max() > 1e-4


@pytest.mark.parametrize("options", KINDS)
def test_padding_and_company_do_not_change_real_positions(options):
    decoder, shared = decoder_and_shared(**options)
    ids, _, z = inputs()
    lengths = [9, 5, 1]
    mask = mx.array(np.arange(9)[None] < np.array(lengths)[:, None]).astype(mx.float32)
    together = np.array(decoder(ids, mask, z, shared))
    for row, length in enumerate(lengths):
        one = slice(row, row + 1)
        alone = decoder(ids[one, :length], mask[one, :length], z[one], shared)
        np.testing.assert_allclose(
            together[row, :length], np.array(alone)[0], atol=1e-5
        )


def test_the_real_mask_reaches_every_block_the_shared_one_included():
    decoder, shared = decoder_and_shared(shared=1)
    seen = []

    class Watched(TCNBlock):
        def __call__(self, x, mask, film=None, *, key=None):
            seen.append(np.array(mask))
            return super().__call__(x, mask, film, key=key)

    decoder.blocks = [Watched(8, 10, 3, 1, **BLOCK)]
    ids, _, z = inputs()
    mask = mx.array([[1.0] * 4 + [0.0] * 5] * 3)
    decoder.features(ids, mask, z, [Watched(8, 10, 3, 2, **BLOCK)])
    assert len(seen) == 2
    for given in seen:
        np.testing.assert_array_equal(given, np.array(mask))


@pytest.mark.parametrize("options", KINDS)
def test_stepping_gives_the_teacher_forced_logits(options):
    decoder, shared = decoder_and_shared(**options)
    ids, mask, z = inputs()
    whole = np.array(decoder(ids, mask, z, shared))
    state = decoder.init_state(z, shared)
    for t in range(9):
        logits, state = decoder.step(ids[:, t], state, shared)
        np.testing.assert_allclose(np.array(logits), whole[:, t], atol=1e-4)


def test_work_of_a_step_does_not_grow_with_the_tokens_before_it():
    decoder, shared = decoder_and_shared(conditioning="film")
    ids, _, z = inputs(length=40)
    state = decoder.init_state(z, shared)
    shapes = [[(3, 10)] * 2, [(3, 10)] * 4]
    for t in range(40):
        assert [[past.shape for past in block] for block in state.blocks] == shapes
        _, state = decoder.step(ids[:, t], state, shared)


def test_a_step_is_traced_once_whatever_the_position():
    decoder, shared = decoder_and_shared()
    ids, _, z = inputs(length=12)
    traces = []

    def advance(token, state):
        traces.append(token.shape)
        logits, state = decoder.step(token, DecoderState(*state), shared)
        return logits, state.moving

    step = mx.compile(advance)
    state, plain = decoder.init_state(z, shared), decoder.init_state(z, shared)
    for t in range(12):
        found, moving = step(ids[:, t], state)
        state = state.moved(moving)
        expected, plain = decoder.step(ids[:, t], plain, shared)
        np.testing.assert_allclose(np.array(found), np.array(expected), atol=1e-5)
    assert len(traces) == 1


def test_an_offset_bans_a_token_and_leaves_the_others():
    for tied in (False, True):
        decoder, shared = decoder_and_shared(tied=tied)
        ids, _, z = inputs()
        state = decoder.init_state(z, shared)
        plain, _ = decoder.step(ids[:, 0], state, shared)
        banned = mx.where(mx.arange(plain.shape[1]) == 5, -mx.inf, 0.0)
        found, _ = decoder.step(ids[:, 0], state, shared, banned)
        expected = np.array(plain)
        expected[:, 5] = -np.inf
        np.testing.assert_allclose(np.array(found), expected, atol=1e-5)


@pytest.mark.parametrize("options", KINDS)
def test_the_vector_conditions_every_position_also_the_first(options):
    decoder, shared = decoder_and_shared(**options)
    ids, mask, z = inputs()
    moved = z + mx.array([1.0] + [0.0] * 11)
    change = mx.abs(decoder(ids, mask, z, shared) - decoder(ids, mask, moved, shared))
    assert np.array(change.max(-1)).min() > 1e-4


def plain_features(decoder, ids, mask, z, *, coverage=0.0, output_condition=0.0):
    """The decoder's formula, spelt out with its own layers."""
    tokens = decoder.embedding(ids)
    x = tokens + decoder.condition(z)[:, None]
    if coverage:
        said = [tokens[:, : t + 1].sum(1) / (t + 1) ** 0.5 for t in range(ids.shape[1])]
        x = x + decoder.coverage(mx.stack(said, axis=1))
    for block in decoder.blocks:
        x = block(x, mask)
    if output_condition:
        x = x + decoder.output_condition(z)[:, None]
    return decoder.norm(x)


@pytest.mark.parametrize("coverage", [False, True])
@pytest.mark.parametrize("output_condition", [False, True])
def test_features_follow_the_formula(coverage, output_condition):
    terms = {"coverage": coverage, "output_condition": output_condition}
    decoder, _ = decoder_and_shared(**terms)
    ids, mask, z = inputs()
    np.testing.assert_allclose(
        np.array(decoder.features(ids, mask, z)),
        np.array(plain_features(decoder, ids, mask, z, **terms)),
        atol=1e-5,
    )
    names = {name.split(".")[0] for name, _ in tree_flatten(decoder.parameters())}
    assert {name for name, there in terms.items() if there} == names & set(terms)


def test_coverage_lets_the_first_token_reach_beyond_the_receptive_field():
    ids, mask, z = inputs(batch=1, length=30)
    other = ids.at[0, 0].add(1) % 50
    for coverage in (False, True):
        decoder, _ = decoder_and_shared(coverage=coverage)
        change = mx.abs(decoder(ids, mask, z) - decoder(other, mask, z))[0, -1].max()
        assert (float(change) > 1e-4) == coverage


def test_film_starts_as_additive_conditioning_and_then_differs():
    additive, _ = decoder_and_shared()
    film = make_decoder(50, 12, dim=8, hidden=10, conditioning="film")
    film.update(additive.parameters())
    ids, mask, z = inputs()
    np.testing.assert_allclose(
        np.array(film(ids, mask, z)), np.array(additive(ids, mask, z)), atol=1e-5
    )
    film.films[0].projection.weight = mx.random.normal((16, 12))
    difference = np.array(film(ids, mask, z)) - np.array(additive(ids, mask, z))
    assert np.abs(difference).max() > 1e-3


def test_film_of_shared_blocks_belongs_to_the_decoder():
    decoder, shared = decoder_and_shared(conditioning="film", shared=2)
    names = {n for n, _ in tree_flatten(decoder.parameters())}
    assert {"films.0.projection.weight", "films.1.projection.weight"} <= names
    assert not any(n.startswith("blocks") for n in names)
    ids, mask, z = inputs()

    def loss(parameters):
        decoder.update(parameters)
        return mx.sin(decoder(ids, mask, z, shared)).sum()

    gradients = dict(tree_flatten(mx.grad(loss)(decoder.trainable_parameters())))
    assert all(float(mx.abs(g).max()) > 0 for g in gradients.values())


@pytest.mark.parametrize("options", [{}, {"conditioning": "film"}])
def test_gathered_rows_in_place_of_the_table_give_the_same_output_and_gradient(options):
    decoder, _ = decoder_and_shared(**options)
    ids, mask, z = inputs()
    table = decoder.embedding.weight
    rows = np.unique(np.array(ids))
    place = np.zeros(50, np.int32)
    place[rows] = np.arange(len(rows))

    def loss(weight, place):
        decoder.embedding.weight = weight
        with decoder.embedding.gathered(place):
            y = decoder(ids, mask, z)
        return mx.sin(y).sum(), y

    grad = mx.value_and_grad(loss)
    (_, whole), whole_gradient = grad(table, None)
    picked = table[mx.array(rows)]
    (_, gathered), gathered_gradient = grad(picked, mx.array(place))
    assert gathered.shape == (3, 9, 50)
    np.testing.assert_allclose(np.array(gathered), np.array(whole), atol=1e-6)
    np.testing.assert_allclose(
        np.array(gathered_gradient), np.array(whole_gradient)[rows], atol=1e-5
    )


def test_tied_logits_use_the_token_table_and_a_bias():
    decoder, _ = decoder_and_shared(tied=True)
    names = {n for n, _ in tree_flatten(decoder.parameters())}
    assert "output_bias" in names and "output.weight" not in names
    decoder.output_bias = mx.random.normal((50,))
    h = mx.random.normal((4, 8))
    expected = np.array(h) @ np.array(decoder.embedding.weight).T
    expected = expected + np.array(decoder.output_bias)
    np.testing.assert_allclose(np.array(decoder.logits(h)), expected, atol=1e-5)


@pytest.mark.parametrize("tied", [False, True])
def test_a_fresh_decoder_is_unsure_also_with_a_teachers_table(tied):
    decoder = make_decoder(50, 12, dim=64, hidden=10, tied=tied)
    decoder.embedding.weight = 0.5 * mx.random.normal((50, 64))
    ids, mask, z = inputs()
    logits = decoder(ids, mask, z)[:, :-1]
    surprise = nn.losses.cross_entropy(logits, ids[:, 1:], reduction="mean").item()
    assert surprise < 1.2 * np.log(50)


def test_dropout_is_off_in_evaluation_and_in_generation_steps():
    decoder, _ = decoder_and_shared(dropout=0.5)
    ids, mask, z = inputs()
    with pytest.raises(ValueError, match=r"\[TCNDecoder\] key must be given"):
        decoder(ids, mask, z)
    one, two = (np.array(decoder(ids, mask, z, key=mx.random.key(s))) for s in (1, 2))
    assert np.abs(one - two).max() > 1e-3
    stepped, _ = decoder.step(ids[:, 0], decoder.init_state(z))
    decoder.eval()
    np.testing.assert_allclose(
        np.array(stepped), np.array(decoder(ids, mask, z))[:, 0], atol=1e-5
    )


def test_state_of_selected_rows_continues_like_those_rows():
    decoder, shared = decoder_and_shared(conditioning="film")
    ids, _, z = inputs()
    _, state = decoder.step(ids[:, 0], decoder.init_state(z, shared), shared)
    rows = mx.array([2, 2, 0])
    whole, _ = decoder.step(ids[:, 1], state, shared)
    picked, _ = decoder.step(ids[rows, 1], state.select(rows), shared)
    np.testing.assert_allclose(np.array(picked), np.array(whole[rows]), atol=1e-6)


@pytest.mark.parametrize("options", KINDS)
@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_half_precision_weights_give_half_precision_logits(dtype, options):
    """Mask and vectors stay float32; the format is that of the weights."""
    decoder, shared = decoder_and_shared(**options)
    ids, mask, z = inputs()
    full = np.array(decoder(ids, mask, z, shared))
    for module in (decoder, *shared):
        module.set_dtype(dtype)
    half = decoder(ids, mask, z, shared)
    assert half.dtype == dtype
    error = np.abs(np.array(half.astype(mx.float32)) - full).max()
    assert error < (0.05 if dtype == mx.float16 else 0.4)
    state = decoder.init_state(z, shared)
    logits, state = decoder.step(ids[:, 0], state, shared)
    assert logits.dtype == dtype and state.blocks[0][0].dtype == dtype


def test_a_decoder_of_blocks_that_see_later_tokens_is_refused():
    with pytest.raises(ValueError, match=r"\[TCNDecoder\] blocks must be causal"):
        decoder_and_shared(causal=False)


def test_wrong_arguments_are_named():
    decoder, _ = decoder_and_shared()
    ids, mask, z = inputs()
    for call, error, message in (
        (
            lambda: decoder(ids, mask, z[:, :7]),
            ValueError,
            r"with E = 12, got \[3, 7\]",
        ),
        (lambda: decoder(ids, mask, z[:2]), ValueError, "z must have 3 rows like ids"),
        (lambda: decoder(ids, mask[:2], z), ValueError, r"mask must be \[B, L\]"),
        (lambda: decoder(ids * 1.0, mask, z), TypeError, "ids must be integers"),
        (lambda: decoder.init_state(z, [1]), ValueError, "shared must hold 0 blocks"),
    ):
        with pytest.raises(error, match=message):
            call()
    with pytest.raises(ValueError, match="conditioning must be 'additive' or 'film'"):
        make_decoder(50, 12, dim=8, hidden=10, conditioning="cross")


def test_a_few_steps_lower_the_loss_on_a_fixed_batch():
    """Measured after the updates, on five seeds."""
    for seed in range(5):
        mx.random.seed(seed)
        decoder, _ = decoder_and_shared()
        ids, mask, z = inputs()

        def loss(parameters, decoder=decoder, ids=ids, mask=mask, z=z):
            decoder.update(parameters)
            logits = decoder(ids[:, :-1], mask[:, :-1], z)
            losses = nn.losses.cross_entropy(logits, ids[:, 1:])
            return (losses * mask[:, 1:]).sum() / mask[:, 1:].sum()

        step = mx.value_and_grad(loss)
        first, _ = step(decoder.trainable_parameters())
        for _ in range(5):
            _, gradients = step(decoder.trainable_parameters())
            moved = [
                (name, value - 0.1 * gradient)
                for (name, value), (_, gradient) in zip(
                    tree_flatten(decoder.trainable_parameters()),
                    tree_flatten(gradients),
                    strict=True,
                )
            ]
            decoder.load_weights(moved, strict=False)
        last, _ = step(decoder.trainable_parameters())
        assert float(last) < float(first) - 0.05
