"""GELU in its exact and tanh forms, and the exponential they rest on.

On the CPU, MLX's ``exp`` costs about 16 ns an element and its ``erf`` GELU 35 ns,
which is more than the matrix products of a small network. A rational approximation
that ``mx.compile`` fuses into one loop costs about 3 ns, and 6 ns with its gradient.
The coefficients below are weighted least-squares fits on Chebyshev nodes (degree 6
over degree 4 in ``x**2`` for erf, degree 5 for ``2**f``). On a GPU the exact form
is the kernel of ``ops.gelu``, and the library's ``exp`` serves the rest.

Both GELU forms accept float32, float16 and bfloat16; they compute in float32 and
return the dtype of their input.
"""

import math
from collections.abc import Callable

import mlx.core as mx

from energyflow_mlx import ops

# erf(x / sqrt(2)) = x P(x^2) / Q(x^2) on |x| <= 5.6, where erf is 1 to float32.
_ERF_LIMIT = 5.6
_ERF_P = (
    0.7978842519084369,
    0.074227389707625,
    0.009175261569137092,
    0.0003649598276899267,
    6.72345679006208e-06,
    -4.399440995415293e-08,
    2.160452513655067e-10,
)
_ERF_Q = (1.0, 0.259694358, 0.0297866766, 0.00190154554, 6.62520354e-05)
# 2^f on |f| <= 1/2, relative error 8e-8.
_EXP2 = (
    1.000000071654005,
    0.6931469670436938,
    0.2402211972604147,
    0.05550713307900284,
    0.009675541246025265,
    0.0013276460871979867,
)
_LOG2_E = 1.0 / math.log(2.0)
# Exponents whose power of two is a normal float32.
_EXPONENT_RANGE = (-126.0, 127.0)
_SQRT_2_OVER_PI = math.sqrt(2.0 / math.pi)
_CUBIC = 0.044715
_TANH_LIMIT = 10.0


def _horner(t: mx.array, coefficients: tuple[float, ...]) -> mx.array:
    """Evaluate ``sum_i coefficients[i] * t**i``."""
    value = t * coefficients[-1] + coefficients[-2]
    for coefficient in coefficients[-3::-1]:
        value = value * t + coefficient
    return value


def _power_of_two(x: mx.array) -> mx.array:
    """Compute ``exp(x)`` as ``2^n * 2^f`` from float32 bits; ``x`` is float32."""
    t = mx.clip(x * _LOG2_E, *_EXPONENT_RANGE)
    n = mx.floor(t + 0.5)
    scale = ((n.astype(mx.int32) + 127) << 23).view(mx.float32)
    return _horner(t - n, _EXP2) * scale


def fast_exp(x: mx.array) -> mx.array:
    """Exponential for use inside larger expressions; not differentiable.

    On the CPU it is a polynomial with relative error below 1e-6 for ``|x| <= 10``
    (the error grows with ``|x|`` as the rounding of ``x * log2(e)`` does). On a GPU
    it is the library's ``exp``, which the hardware provides. Results saturate at
    ``2^-126`` and ``2^127``; NaN stays NaN.

    Args:
        x: Any shape, float32.

    Returns:
        ``exp(x)``, float32.
    """
    if mx.default_device().type == mx.gpu:
        return mx.exp(x)
    return _power_of_two(x)


def _erf_over_sqrt2(x: mx.array) -> mx.array:
    """Compute ``erf(x / sqrt(2))`` for float32 ``x``, absolute error 2e-7."""
    bounded = mx.clip(x, -_ERF_LIMIT, _ERF_LIMIT)
    square = bounded * bounded
    return bounded * _horner(square, _ERF_P) / _horner(square, _ERF_Q)


@mx.compile
def _gelu_exact(x: mx.array) -> mx.array:
    wide = x.astype(mx.float32)
    return (0.5 * wide * (1.0 + _erf_over_sqrt2(wide))).astype(x.dtype)


@mx.compile
def _gelu_exact_vjp(x: mx.array, cotangent: mx.array) -> mx.array:
    wide = x.astype(mx.float32)
    density = fast_exp(-0.5 * wide * wide) * (0.5 * _SQRT_2_OVER_PI)
    slope = 0.5 + 0.5 * _erf_over_sqrt2(wide) + wide * density
    return (slope * cotangent.astype(mx.float32)).astype(x.dtype)


def _tanh_gate(bounded: mx.array) -> mx.array:
    """Compute ``(1 + tanh(u)) / 2`` with the tanh form's argument ``u(x)``."""
    u = _SQRT_2_OVER_PI * (bounded + _CUBIC * bounded * bounded * bounded)
    return 1.0 / (1.0 + fast_exp(-2.0 * u))


def _saturate(wide: mx.array) -> mx.array:
    """Clip to where the tanh gate is already 0 or 1, so its cube stays finite."""
    return mx.clip(wide, -_TANH_LIMIT, _TANH_LIMIT)


@mx.compile
def _gelu_tanh(x: mx.array) -> mx.array:
    wide = x.astype(mx.float32)
    return (wide * _tanh_gate(_saturate(wide))).astype(x.dtype)


@mx.compile
def _gelu_tanh_vjp(x: mx.array, cotangent: mx.array) -> mx.array:
    wide = x.astype(mx.float32)
    bounded = _saturate(wide)
    gate = _tanh_gate(bounded)
    du = _SQRT_2_OVER_PI * (1.0 + 3.0 * _CUBIC * bounded * bounded)
    slope = gate + bounded * (2.0 * gate * (1.0 - gate) * du)
    return (slope * cotangent.astype(mx.float32)).astype(x.dtype)


def gelu(x: mx.array) -> mx.array:
    """Exact GELU, ``x * Phi(x)`` with the normal distribution function ``Phi``.

    Absolute error below 2e-6 against float64, value and gradient. The gradient is a
    formula of its own, so that it costs one fused pass. On a GPU it is ``ops.gelu``.

    Args:
        x: Any shape; float32, float16 or bfloat16.

    Returns:
        Same shape and dtype as ``x``.
    """
    if ops.resolve("auto", "gelu") == "reference":
        return _gelu_on_cpu(x)
    return ops.gelu(x)


@mx.custom_function
def _gelu_on_cpu(x: mx.array) -> mx.array:
    return _gelu_exact(x)


@_gelu_on_cpu.vjp
def _gelu_backward(
    primal: mx.array, cotangent: mx.array, _output: mx.array
) -> mx.array:
    return _gelu_exact_vjp(primal, cotangent)


@mx.custom_function
def gelu_approx(x: mx.array) -> mx.array:
    """GELU in the tanh form, ``0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))``.

    Args:
        x: Any shape; float32, float16 or bfloat16.

    Returns:
        Same shape and dtype as ``x``.
    """
    return _gelu_tanh(x)


@gelu_approx.vjp
def _gelu_approx_backward(
    primal: mx.array, cotangent: mx.array, _output: mx.array
) -> mx.array:
    return _gelu_tanh_vjp(primal, cotangent)


_FORMS: dict[str, Callable[[mx.array], mx.array]] = {
    "exact": gelu,
    "tanh": gelu_approx,
}


def activation(name: str) -> Callable[[mx.array], mx.array]:
    """Return the GELU form called ``name``: ``"exact"`` or ``"tanh"``.

    Raises:
        ValueError: ``name`` is neither.
    """
    if name not in _FORMS:
        raise ValueError(
            f"[activation] name must be one of {sorted(_FORMS)}, got {name!r}."
        )
    return _FORMS[name]
