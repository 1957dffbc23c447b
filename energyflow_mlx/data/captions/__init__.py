"""Built-in sentences: a seeded grammar of everyday scenes."""

from energyflow_mlx.data.captions.generate import generate_captions

__all__ = ["generate_captions"]
