"""Precisions in which weights are stored; needs no MLX, so a command's help may ask."""

from energyflow_mlx.errors import InputError

BITS = {"int8": 8, "int4": 4}
DTYPES = ("float32", "float16", "bfloat16", *BITS)


def require_dtype(dtype: str) -> None:
    """Refuse a precision that weights are not stored in.

    Raises:
        InputError: ``dtype`` is none of ``DTYPES``.
    """
    if dtype not in DTYPES:
        raise InputError(
            f"[export] dtype must be one of {', '.join(DTYPES)}, got {dtype}."
        )
