"""Where MLX's own attention runs: one kernel that never holds the scores, on a GPU."""

import mlx.core as mx


def has_fused_attention() -> bool:
    """Whether ``mx.fast.scaled_dot_product_attention`` is a kernel on this device.

    On the CPU it is the plain products and a softmax, which cost more there than what
    the callers write out.
    """
    return mx.default_device() == mx.gpu
