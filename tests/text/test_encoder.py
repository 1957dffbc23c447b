import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from energyflow_mlx.nn.activations import gelu
from energyflow_mlx.nn.dropout import drop_tokens, dropout, key_stream
from energyflow_mlx.nn.tcn import receptive_field
from energyflow_mlx.ops import masked_mean
from energyflow_mlx.text.encoder import GatedMean
from tests.text.small import make_block, make_encoder, make_transformer

LENGTHS = [9, 5, 2]


def tcn(**options):
    encoder = make_encoder(50, 12, dim=8, hidden=10, **options)
    for block in encoder.blocks:
        block.norm.bias = mx.random.normal((8,))
    for context in encoder.contexts:
        context.weight = 0.5 * mx.random.normal((8, 8))
        context.bias = mx.random.normal((8,))
    if "pooling" in options:
        encoder.pool.gate.weight = mx.random.normal((1, 8))
    # Larger tokens than at the start, so that every difference shows.
    encoder.embedding.weight = encoder.embedding.weight * 50
    return encoder


CONTEXT = {"context": True, "causal": False, "dilations": (1, 2, 1)}


def transformer(**options):
    return make_transformer(50, 12, dim=8, heads=2, hidden=10, **options)


ENCODERS = [
    pytest.param(lambda: tcn(), id="tcn"),
    pytest.param(lambda: tcn(causal=False), id="tcn-both-sides"),
    pytest.param(lambda: tcn(pooling="gated"), id="tcn-gated"),
    pytest.param(lambda: tcn(**CONTEXT), id="tcn-context"),
    pytest.param(lambda: tcn(embedding_rank=4), id="tcn-low-rank"),
    pytest.param(lambda: tcn(output_tanh=True, gelu="tanh"), id="tcn-tanh"),
    pytest.param(lambda: tcn(token_dropout=0.3, dropout=0.2), id="tcn-dropout"),
    pytest.param(lambda: transformer(dropout=0.1, token_dropout=0.2), id="transformer"),
]


def tokens():
    ids = mx.random.randint(0, 50, (3, 9))
    mask = (np.arange(9)[None] < np.array(LENGTHS)[:, None]).astype(np.float32)
    return ids, mx.array(mask)


@pytest.mark.parametrize("make", ENCODERS)
def test_padding_and_company_do_not_change_a_sentence(make):
    """Alone, in a batch, or in a longer bucket: the same vector to 1e-5."""
    encoder = make()
    encoder.eval()
    ids, mask = tokens()
    together = np.array(encoder(ids, mask))
    assert together.shape == (3, 12)
    longer = mx.pad(ids, [(0, 0), (0, 7)], constant_values=33)
    longer = np.array(encoder(longer, mx.pad(mask, [(0, 0), (0, 7)])))
    np.testing.assert_allclose(longer, together, atol=1e-5)
    for row, length in enumerate(LENGTHS):
        alone = encoder(ids[row : row + 1, :length], mask[row : row + 1, :length])
        np.testing.assert_allclose(np.array(alone)[0], together[row], atol=1e-5)


@pytest.mark.parametrize("make", ENCODERS)
def test_padding_ids_neither_matter_nor_get_a_gradient(make):
    encoder = make()
    encoder.eval()
    ids, mask = tokens()
    noise = mx.random.randint(0, 50, (3, 9))
    other = mx.where(mask > 0, ids, noise)
    np.testing.assert_allclose(
        np.array(encoder(ids, mask)), np.array(encoder(other, mask)), atol=1e-6
    )
    used = set(np.array(ids)[np.array(mask) > 0].tolist())

    def loss(table):
        encoder.embedding.weight = table
        return mx.sin(encoder(other, mask)).sum()

    gradient = np.array(mx.grad(loss)(encoder.embedding.weight))
    rows = set(np.abs(gradient).max(-1).nonzero()[0].tolist())
    assert rows == used


@pytest.mark.parametrize("make", ENCODERS)
def test_gathered_rows_in_place_of_the_table_give_the_same_output_and_gradient(make):
    encoder = make()
    encoder.eval()
    ids, mask = tokens()
    table = encoder.embedding.weight
    rows = np.unique(np.array(ids))
    place = np.zeros(50, np.int32)
    place[rows] = np.arange(len(rows))

    def loss(weight, place):
        encoder.embedding.weight = weight
        with encoder.embedding.gathered(place):
            y = encoder(ids, mask)
        return mx.sin(y).sum(), y

    grad = mx.value_and_grad(loss)
    (_, whole), whole_gradient = grad(table, None)
    picked = table[mx.array(rows)]
    (_, gathered), gathered_gradient = grad(picked, mx.array(place))
    np.testing.assert_allclose(np.array(gathered), np.array(whole), atol=1e-6)
    np.testing.assert_allclose(
        np.array(gathered_gradient), np.array(whole_gradient)[rows], atol=1e-6
    )


def test_shared_blocks_run_last_and_get_their_gradient_from_the_call():
    encoder = tcn(shared=1)
    assert len(encoder.blocks) == 1
    shared = make_block(8, 10, 3, 2)
    whole = tcn()
    whole.update(encoder.parameters())
    whole.blocks[1].update(shared.parameters())
    ids, mask = tokens()
    np.testing.assert_allclose(
        np.array(encoder(ids, mask, [shared])), np.array(whole(ids, mask)), atol=1e-6
    )

    def loss(parameters):
        shared.update(parameters)
        return mx.sin(encoder(ids, mask, [shared])).sum()

    gradients = dict(tree_flatten(mx.grad(loss)(shared.parameters())))
    assert all(float(mx.abs(g).max()) > 0 for g in gradients.values())
    assert not any("shared" in n for n, _ in tree_flatten(encoder.parameters()))


@pytest.mark.parametrize("is_on", [False, True])
def test_words_out_of_each_others_reach_act_together_only_with_context(is_on):
    """Without it, what two far words change is the sum of what each changes alone."""
    encoder = tcn(context=is_on, causal=False, dilations=(1, 2, 4, 1))
    blocks = encoder.blocks
    reach = receptive_field(3, [block.dilation for block in blocks])
    assert reach == 17 and len(encoder.contexts) == 3 * is_on
    ids, mask = np.zeros((4, 30), np.int32) + 7, mx.ones((4, 30))
    ids[[1, 3], 2] = 20
    ids[[2, 3], 2 + reach] = 30
    neither, first, second, both = np.array(encoder(mx.array(ids), mask))
    assert min(np.abs(y - neither).max() for y in (first, second)) > 1e-3
    together = np.abs(both - first - second + neither).max()
    assert (together > 1e-3) if is_on else (together < 1e-5)


def test_contexts_between_own_and_shared_blocks_get_their_gradient():
    encoder = make_encoder(50, 12, dim=8, hidden=10, shared=1, **CONTEXT)
    shared, (ids, mask) = [make_block(8, 10, 3, 1)], tokens()
    assert len(encoder.blocks) == len(encoder.contexts) == 2

    def loss(parameters):
        encoder.update(parameters)
        return mx.sin(encoder(ids, mask, shared)).sum()

    gradients = dict(tree_flatten(mx.grad(loss)(encoder.parameters())))
    for number in range(2):  # the norm has none while the weight is zero
        for name in ("weight", "bias"):
            gradient = gradients[f"contexts.{number}.{name}"]
            assert float(mx.abs(gradient).max()) > 0


@pytest.mark.parametrize("make", [tcn, transformer])
def test_wrong_input_raises_instead_of_giving_zeros(make):
    encoder = make()
    encoder.eval()
    ids, mask = tokens()
    with pytest.raises(ValueError, match=r"mask must be \[B, L\] = \[3, 9\], got"):
        encoder(ids, mask[:, :5])
    with pytest.raises(ValueError, match=r"ids must be \[B, L\], got \[9\]"):
        encoder(ids[0], mask[0])
    with pytest.raises(TypeError, match="ids must be integers, got .*float32"):
        encoder(ids.astype(mx.float32), mask)
    with pytest.raises(ValueError, match="shared must hold 0 blocks, got 1"):
        encoder(ids, mask, [make_block(8, 10, 3, 1)])


def test_shared_blocks_that_do_not_fit_are_refused():
    encoder = tcn(shared=1)
    ids, mask = tokens()
    for block in (make_block(6, 10, 3, 1), make_block(8, 10, 3, 1, causal=False)):
        with pytest.raises(ValueError, match="must be causal with D = 8"):
            encoder(ids, mask, [block])
    with pytest.raises(ValueError, match="shared must hold 1 blocks, got 0"):
        encoder(ids, mask)
    for count in (-1, 3):
        with pytest.raises(ValueError, match="shared must be between 0 and 2"):
            tcn(shared=count)


def test_dropout_is_off_in_evaluation_and_reproducible_in_training():
    encoder = tcn(token_dropout=0.3, dropout=0.2)
    ids, mask = tokens()
    one, two, again = (
        np.array(encoder(ids, mask, key=mx.random.key(s))) for s in (1, 2, 1)
    )
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - two).max() > 1e-4
    with pytest.raises(ValueError, match=r"\[TCNEncoder\] key must be given"):
        encoder(ids, mask)
    encoder.eval()
    plain = tcn()
    plain.update(encoder.parameters())
    for key in (None, mx.random.key(1)):
        np.testing.assert_array_equal(
            np.array(encoder(ids, mask, key=key)), np.array(plain(ids, mask))
        )


@pytest.mark.parametrize("make", [tcn, transformer])
def test_token_dropout_hides_whole_tokens_but_never_the_first(make):
    """A sentence with dropped tokens equals one in which they are masked."""
    encoder = make(token_dropout=0.9)
    ids, mask = mx.random.randint(0, 50, (40, 9)), mx.ones((40, 9))
    key = mx.random.key(4)
    dropped = encoder(ids, mask, key=key)
    kept = drop_tokens(mask, 0.9, mx.random.split(key)[1])
    share = np.array(kept)[:, 1:].mean()
    assert 0.05 < share < 0.15
    assert np.array(kept)[:, 0].all()
    encoder.eval()
    np.testing.assert_allclose(
        np.array(dropped), np.array(encoder(ids, kept)), atol=1e-6
    )
    assert np.abs(np.array(dropped) - np.array(encoder(ids, mask))).max() > 1e-4


def test_dropout_alone_draws_the_same_with_and_without_the_way_to_hide_tokens():
    """So that a seed goes on giving the same Transformer."""
    encoder = transformer(dropout=0.3)
    ids, mask = tokens()
    key = mx.random.key(2)
    keys = key_stream(key)
    x = encoder.embedding(ids) + encoder.positions[:9]
    for layer in encoder.layers:
        x = layer(x, mask, key=next(keys))
    h = encoder.norm(gelu(encoder.expand(masked_mean(x, mask))))
    expected = encoder.head(dropout(h, 0.3, next(keys)))
    np.testing.assert_array_equal(
        np.array(encoder(ids, mask, key=key)), np.array(expected)
    )


def test_gated_mean_starts_as_the_mean_and_then_weighs_tokens():
    pool = GatedMean(4)
    x, mask = mx.random.normal((2, 5, 4)), mx.array([[1.0] * 5, [1.0, 1, 0, 0, 0]])
    mean = np.array((x * mask[..., None]).sum(1) / mask.sum(1, keepdims=True))
    np.testing.assert_allclose(np.array(pool(x, mask)), mean, atol=1e-6)
    pool.gate.weight = mx.random.normal((1, 4)) * 3
    z = np.array(x) @ np.array(pool.gate.weight)[0] + np.array(pool.gate.bias)
    g = np.array(mask) / (1 + np.exp(-z))
    expected = (g[..., None] * np.array(x)).sum(1) / g.sum(1, keepdims=True)
    np.testing.assert_allclose(np.array(pool(x, mask)), expected, atol=1e-5)
    assert (np.array(pool(x, mx.zeros((2, 5)))) == 0).all()


def test_low_rank_table_is_a_table_followed_by_a_map():
    encoder = tcn(embedding_rank=4)
    assert encoder.embedding.weight.shape == (50, 4)
    assert encoder.embedding_projection.weight.shape == (8, 4)
    whole = tcn()
    parameters = dict(tree_flatten(encoder.parameters()))
    lift = parameters.pop("embedding_projection.weight")
    parameters["embedding.weight"] = parameters["embedding.weight"] @ lift.T
    whole.load_weights(list(parameters.items()))
    ids, mask = tokens()
    np.testing.assert_allclose(
        np.array(encoder(ids, mask)), np.array(whole(ids, mask)), atol=1e-4
    )


def test_output_tanh_bounds_the_result():
    encoder = tcn(output_tanh=True)
    encoder.head.weight = encoder.head.weight * 100
    y = np.array(encoder(*tokens()))
    assert 0.9 < np.abs(y).max() <= 1.0


def test_a_causal_encoder_and_one_that_is_not_differ_on_the_same_weights():
    ids, mask = tokens()
    forward, both = tcn(), tcn(causal=False)
    both.update(forward.parameters())
    assert np.abs(np.array(forward(ids, mask)) - np.array(both(ids, mask))).max() > 1e-3


def test_a_start_after_initialization_is_finite_and_varied():
    """Vocabulary of 30,000 and width 256."""
    encoder = make_encoder(30000, 384, dim=256, hidden=64)
    y = np.array(encoder(mx.random.randint(0, 30000, (5, 12)), mx.ones((5, 12))))
    assert y.shape == (5, 384) and np.isfinite(y).all() and y.std() > 1e-3


@pytest.mark.parametrize("make", ENCODERS)
@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_half_precision_encoders_return_their_dtype_near_the_full_result(make, dtype):
    """The mask stays float32; the format is that of the weights."""
    encoder = make()
    encoder.eval()
    ids, mask = tokens()
    full = np.array(encoder(ids, mask))
    encoder.set_dtype(dtype)
    half = encoder(ids, mask)
    assert half.dtype == dtype
    error = np.abs(np.array(half.astype(mx.float32)) - full).max()
    assert error < (0.02 if dtype == mx.float16 else 0.15)
    encoder.train()
    assert encoder(ids, mask, key=mx.random.key(0)).dtype == dtype


def test_sentences_longer_than_the_position_table_are_refused():
    encoder = transformer(max_length=8)
    encoder.eval()
    with pytest.raises(ValueError, match="at most 8 columns, got 9"):
        encoder(*tokens())


def test_transformer_dropout_switches_with_training():
    encoder = transformer(dropout=0.1)
    ids, mask = tokens()
    one, two = (np.array(encoder(ids, mask, key=mx.random.key(s))) for s in (1, 2))
    assert np.abs(one - two).max() > 1e-3
    encoder.eval()
    np.testing.assert_array_equal(
        np.array(encoder(ids, mask)), np.array(encoder(ids, mask))
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "max"}, "pooling must be 'mean' or 'gated', got 'max'"),
        ({"dilations": ()}, "dilations must name at least one block"),
        ({"token_dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        make_encoder(50, 12, dim=8, hidden=10, **options)


@pytest.mark.parametrize("make", ENCODERS)
def test_rows_of_the_table_are_read_as_their_tokens(make):
    encoder = make()
    encoder.eval()
    ids, mask = tokens()
    found = encoder.encode_rows(encoder.embedding(ids), mask)
    np.testing.assert_array_equal(np.array(found), np.array(encoder(ids, mask)))


@pytest.mark.parametrize("make", ENCODERS)
def test_rows_of_another_width_or_length_are_refused(make):
    encoder = make()
    encoder.eval()
    ids, mask = tokens()
    rows = encoder.embedding(ids)
    for wrong in (rows[..., 1:], rows[:, 1:], rows[0]):
        with pytest.raises(ValueError, match=r"rows must be \[B, L, R\] = \[3, 9, "):
            encoder.encode_rows(wrong, mask)
