"""Distilled text encoders, vector-to-text decoders and an energy lattice, on MLX."""

# Before anything imports mlx.core: the CPU backend takes its BLAS from the process.
from energyflow_mlx.runtime import allocator as _allocator
from energyflow_mlx.runtime import blas as _blas

_blas.install()
_allocator.install()

from typing import TYPE_CHECKING, Any  # noqa: E402

from energyflow_mlx.errors import InputError  # noqa: E402

if TYPE_CHECKING:
    from pathlib import Path

    from energyflow_mlx.inference import SentenceCodec

__all__ = ["InputError", "SentenceCodec", "__version__", "load"]

__version__ = "0.1.0"  # the one place; pyproject.toml reads it here


def load(path: "str | Path", weights: "str | Path | None" = None) -> "SentenceCodec":
    """Open a trained run, to encode texts and decode vectors.

    Args:
        path: The run's folder.
        weights: A ``.safetensors`` file exported from this run, to be taken in place
            of its best checkpoint.

    Raises:
        InputError: The folder is missing, damaged or not a run, or the file does not
            fit it.
    """
    from energyflow_mlx.build.codec import load as load_run

    return load_run(path, weights)


def __getattr__(name: str) -> Any:
    """Import what ``load`` returns on first use: it brings MLX and the model."""
    if name == "SentenceCodec":
        from energyflow_mlx.inference import SentenceCodec

        return SentenceCodec
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
