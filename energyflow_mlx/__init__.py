"""Distilled text encoders, vector-to-text decoders and an energy lattice, on MLX."""

# Before anything imports mlx.core: the CPU backend takes its BLAS from the process.
from energyflow_mlx.runtime import allocator as _allocator
from energyflow_mlx.runtime import blas as _blas
from energyflow_mlx.runtime import command_buffers as _command_buffers

_blas.install()
_allocator.install()
_command_buffers.install()

from typing import TYPE_CHECKING  # noqa: E402

if TYPE_CHECKING:
    from pathlib import Path

    from energyflow_mlx.inference import SentenceCodec

__all__ = ["load"]


def load(path: "str | Path") -> "SentenceCodec":
    """Open a trained model, to encode texts and decode vectors.

    Args:
        path: A run's folder, a folder that ``export`` wrote, or ``user/name`` on the
            Hugging Face hub.

    Raises:
        InputError: The folder is missing, damaged or no model's, or the hub does not
            supply it.
    """
    from energyflow_mlx.build.codec import load as load_model

    return load_model(path)
