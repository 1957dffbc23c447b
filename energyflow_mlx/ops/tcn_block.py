"""A temporal convolution block as one operation.

    y = mask * (x + drop * conv2(gelu(conv1(film(LN(x))))))

``conv1`` has K taps ``dilation`` apart and is causal unless asked otherwise; ``conv2``
has one tap, so it is a matrix product per token. After Bai et al., "An Empirical
Evaluation of Generic Convolutional and Recurrent Networks for Sequence Modeling",
2018, with pre-normalisation; FiLM is Perez et al., AAAI 2018, section 3.

MLX's shapes are static: its form spends as much on a padded token as on a real one.
The native form packs the real tokens when it runs and works on those alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import mlx.core as mx

from energyflow_mlx.ops._backend import Backend, resolve
from energyflow_mlx.ops.causal_im2col import causal_conv1d
from energyflow_mlx.ops.gelu import Form, gelu
from energyflow_mlx.ops.layer_norm import layer_norm
from energyflow_mlx.ops.row_sums import linear
from energyflow_mlx.runtime import native

Film = tuple[mx.array, mx.array]

LAYER_NORM_EPS = 1e-5


class BlockWeights(NamedTuple):
    """Arrays of one block, in the layout the operation uses."""

    norm_weight: mx.array  # [D]
    norm_bias: mx.array  # [D]
    conv1_weight: mx.array  # [H, K, D]
    conv1_bias: mx.array  # [H]
    conv2_weight: mx.array  # [D, H]
    conv2_bias: mx.array  # [D]


class _Plan(NamedTuple):
    """What a native kernel is told beside its arrays."""

    dilation: int
    causal: bool
    form: Form
    film: bool
    drop: bool
    keep: bool


def tcn_block(
    x: mx.array,
    mask: mx.array,
    weights: BlockWeights,
    film: Film | None = None,
    *,
    dilation: int,
    causal: bool,
    form: Form = "exact",
    drop: mx.array | None = None,
    keep: bool = True,
    backend: Backend = "auto",
) -> mx.array:
    """Apply a block to a padded batch of sentences.

    The native form computes in float32 and gives the same bits for any number of
    threads. A place whose mask is 0 gets zeros and what stands there reaches no other
    place, with one exception: when causal, a token that is masked out in front of a
    real one is read by it, as it stands.

    Args:
        x: Token features, ``[B, L, D]``; float32, float16 or bfloat16.
        mask: 1 for real tokens, ``[B, L]``; no gradient reaches it.
        weights: Arrays of the block.
        film: Scale and shift of the normalised input, each ``[B, 1, D]``.
        dilation: Distance between taps, in tokens.
        causal: Whether a token sees only itself and earlier ones.
        form: Form of the GELU.
        drop: Factors of the residual branch, ``[B, L, D]``: dropout. They get no
            gradient, and 0 drops what is not finite too.
        keep: Whether the native form keeps ``[B * L, H]`` for the backward pass, which
            otherwise computes it once more; say False where no gradient is wanted.
        backend: Which implementation to run; see ``ops._backend``.

    Returns:
        ``[B, L, D]`` in ``x.dtype``.
    """
    chosen = resolve(backend, "tcn_block")
    if chosen == "reference" or x.size == 0:
        return tcn_block_reference(
            x, mask, weights, film, dilation=dilation, causal=causal, form=form,
            drop=drop,
        )  # fmt: skip
    arrays = [x, mx.stop_gradient(mask), *weights]
    if film is not None:
        wanted = (x.shape[0], 1, x.shape[2])
        arrays += [mx.broadcast_to(part, wanted).squeeze(1) for part in film]
    if drop is not None:
        arrays.append(mx.stop_gradient(drop))
    plan = _Plan(dilation, causal, form, film is not None, drop is not None, keep)
    return _block(plan)(*(a.astype(mx.float32) for a in arrays))[0].astype(x.dtype)


def normalized_input(x: mx.array, weights: BlockWeights, film: Film | None) -> mx.array:
    """Layer-normalise the last axis of ``x`` and apply FiLM, if there is one."""
    u = layer_norm(x, weights.norm_weight, weights.norm_bias, LAYER_NORM_EPS)
    if film is None:
        return u
    scale, shift = film
    return u * (1.0 + scale) + shift


def tcn_block_reference(
    x: mx.array,
    mask: mx.array,
    weights: BlockWeights,
    film: Film | None = None,
    *,
    dilation: int,
    causal: bool,
    form: Form = "exact",
    drop: mx.array | None = None,
) -> mx.array:
    """``tcn_block`` out of MLX's and the package's own operations.

    It is the specification of the native form, and what runs on a GPU, where its parts
    are kernels.
    """
    u = normalized_input(x, weights, film)
    if causal:
        h = causal_conv1d(u, weights.conv1_weight, weights.conv1_bias, dilation)
    else:
        # A normalised zero is the norm's bias, so padding must be blanked again before
        # a later neighbour is read. Centring is the causal result taken `ahead` later.
        ahead = (weights.conv1_weight.shape[1] - 1) // 2 * dilation
        u = mx.pad(u * mask[..., None].astype(u.dtype), [(0, 0), (0, ahead), (0, 0)])
        h = causal_conv1d(u, weights.conv1_weight, weights.conv1_bias, dilation)
        h = h[:, ahead:]
    h = gelu(h, form)  # [B, L, H]
    branch = linear(h, weights.conv2_weight, weights.conv2_bias)
    if drop is not None:
        scaled = branch * drop.astype(branch.dtype)
        branch = mx.where(drop != 0, scaled, mx.zeros_like(branch))
    return (x + branch) * mask[..., None].astype(x.dtype)


@cache
def _block(plan: _Plan) -> Callable[..., list[mx.array]]:
    """``arrays -> [y, p, moments]`` (``[y]`` unless kept), with its gradient."""

    @mx.custom_function
    def block(*arrays: mx.array) -> list[mx.array]:
        return _forward(plan, arrays)

    @block.vjp
    def block_vjp(
        primals: tuple[mx.array, ...],
        cotangents: list[mx.array],
        outputs: list[mx.array],
    ) -> list[mx.array]:
        kept = outputs if plan.keep else _forward(plan._replace(keep=True), primals)
        return _backward(plan, primals, kept[1:], cotangents[0])

    return block


def _forward(plan: _Plan, arrays: tuple[mx.array, ...]) -> list[mx.array]:
    batch, length, _ = arrays[0].shape
    hidden = arrays[4].shape[0]
    shapes = [arrays[0].shape]
    if plan.keep:
        shapes += [(batch * length, hidden), (batch * length, 2)]
    return native.launch(
        "tcn_block_forward",
        arrays,
        [(shape, mx.float32) for shape in shapes],
        _sizes(plan, arrays),
        [LAYER_NORM_EPS],
    )


def _backward(
    plan: _Plan,
    arrays: tuple[mx.array, ...],
    kept: list[mx.array],
    cotangent: mx.array,
) -> list[mx.array]:
    """Gradient of every array of ``arrays``, zero for mask and dropout."""
    with_gradient = [0, 2, 3, 4, 5, 6, 7, *([8, 9] if plan.film else [])]
    found = native.launch(
        "tcn_block_backward",
        [*arrays, *kept, cotangent],
        [(arrays[i].shape, mx.float32) for i in with_gradient],
        _sizes(plan, arrays),
        [LAYER_NORM_EPS],
    )
    by_place = dict(zip(with_gradient, found, strict=True))
    return [
        by_place[i] if i in by_place else mx.zeros_like(array)
        for i, array in enumerate(arrays)
    ]


def _sizes(plan: _Plan, arrays: tuple[mx.array, ...]) -> list[int]:
    hidden, taps, _ = arrays[4].shape
    flags = (plan.causal, plan.form == "tanh", plan.film, plan.drop, plan.keep)
    return [*arrays[0].shape, hidden, taps, plan.dilation, *map(int, flags)]
