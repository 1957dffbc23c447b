"""Sentences: tokens, the encoder to a vector, the decoder back to text."""
