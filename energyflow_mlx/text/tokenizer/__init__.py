"""Text to token ids and back."""

from energyflow_mlx.text.tokenizer.tokenizer import Tokenizer

__all__ = ["Tokenizer"]
