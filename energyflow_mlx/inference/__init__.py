"""A trained model as an object: texts to vectors, vectors to texts, folders to share.

Needs MLX, NumPy and the tokenizer; no training dependency.
"""

from energyflow_mlx.inference.codec import SentenceCodec, default_rows

__all__ = ["SentenceCodec", "default_rows"]
