"""Random keys of updates: pure functions of seed, update and process."""

import mlx.core as mx

MOST_KEYS = 64


def update_keys(seed: int, step: int, first: int) -> mx.array:
    """Random keys of one process's micro-batches of update ``step``.

    Args:
        seed: The run's seed.
        step: Number of the update.
        first: Number of the process's first micro-batch among those of the update.

    Returns:
        ``[MOST_KEYS, 2]`` uint32; key ``i`` is that of its micro-batch ``i``.
    """
    keys = mx.random.split(mx.random.key(_mix(seed, step)), MOST_KEYS)
    return mx.roll(keys, -first, axis=0) if first else keys


def host_seed(seed: int, step: int, use: int) -> int:
    """Seed of what the host draws for update ``step``.

    Args:
        seed: The run's seed.
        step: Number of the update.
        use: What is drawn; each use has a number of its own.

    Returns:
        A number in [0, 2^64).
    """
    return _mix(_mix(seed, step), use)


def _mix(seed: int, step: int) -> int:
    """One 64-bit number from seed and step (SplitMix64 finalizer)."""
    x = (seed * 0x9E3779B97F4A7C15 + step + 1) & 0xFFFFFFFFFFFFFFFF
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return x ^ (x >> 31)
