"""A run on the disk: its folder, checkpoints, weights and metrics."""
