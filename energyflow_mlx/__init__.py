"""Distilled text encoders, vector-to-text decoders and an energy lattice, on MLX."""

# Before all that takes time: from here on Ctrl-C ends a command with one line.
from energyflow_mlx.runtime import interrupts as _interrupts

_interrupts.install()

# Before anything imports mlx.core: the CPU backend takes its BLAS from the process.
from energyflow_mlx.runtime import allocator as _allocator  # noqa: E402
from energyflow_mlx.runtime import blas as _blas  # noqa: E402
from energyflow_mlx.runtime import command_buffers as _command_buffers  # noqa: E402

_blas.install()
_allocator.install()
_command_buffers.install()

from typing import TYPE_CHECKING, Any  # noqa: E402

from energyflow_mlx.errors import InputError  # noqa: E402

if TYPE_CHECKING:
    from pathlib import Path

    from energyflow_mlx.inference import SentenceCodec

__all__ = ["InputError", "SentenceCodec", "__version__", "load"]

__version__ = "0.1.0"  # the one place; pyproject.toml reads it here


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


def __getattr__(name: str) -> Any:
    """Import what ``load`` returns on first use: it brings MLX and the model."""
    if name == "SentenceCodec":
        from energyflow_mlx.inference import SentenceCodec

        return SentenceCodec
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
