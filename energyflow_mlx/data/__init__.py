"""Sentences, their vectors, the files they live in, and batches of them."""
