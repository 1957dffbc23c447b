"""Layers, activations and losses that know nothing of the task."""
