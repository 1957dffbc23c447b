"""A run of TCN blocks: those a model owns, then those it shares.

Shared blocks have one owner, the whole model, and come in as a call argument: a layer
reachable by two attribute paths would get its gradient on one of them only. They
run last and are causal.
"""

from collections.abc import Sequence

import mlx.core as mx

from energyflow_mlx.nn.dropout import key_stream
from energyflow_mlx.nn.tcn import Film, TCNBlock


def own_blocks(
    dim: int,
    hidden: int,
    kernel_size: int,
    dilations: Sequence[int],
    *,
    shared_blocks: int,
    causal: bool,
    dropout: float,
    gelu: str,
) -> list[TCNBlock]:
    """Create the blocks a model owns: one per dilation but the last ``shared_blocks``.

    Raises:
        ValueError: There are more shared blocks than dilations, or no blocks at all.
    """
    if not dilations:
        raise ValueError("[TCN] dilations must name at least one block, got none.")
    if not 0 <= shared_blocks <= len(dilations):
        raise ValueError(
            f"[TCN] shared_blocks must be between 0 and {len(dilations)}, "
            f"got {shared_blocks}."
        )
    return [
        TCNBlock(
            dim,
            hidden,
            kernel_size,
            dilation,
            causal=causal,
            dropout=dropout,
            gelu=gelu,
        )
        for dilation in dilations[: len(dilations) - shared_blocks]
    ]


def check_shared(
    name: str, shared: Sequence[TCNBlock], expected: int, dim: int
) -> None:
    """Check the shared blocks of a call against what the model was built for.

    Raises:
        ValueError: Their number or width differs, or one is not causal.
    """
    if len(shared) != expected:
        raise ValueError(
            f"[{name}] shared must hold {expected} blocks, got {len(shared)}."
        )
    for block in shared:
        if block.dim != dim or not block.causal:
            raise ValueError(
                f"[{name}] shared blocks must be causal with D = {dim}, "
                f"got causal={block.causal}, D = {block.dim}."
            )


def run_blocks(
    blocks: Sequence[TCNBlock],
    x: mx.array,
    mask: mx.array,
    films: Sequence[Film | None] | None = None,
    *,
    key: mx.array | None = None,
) -> mx.array:
    """Apply ``blocks`` one after the other to ``x [B, L, D]``."""
    films = films or [None] * len(blocks)
    keys = key_stream(key)
    for block, film in zip(blocks, films, strict=True):
        x = block(x, mask, film, key=next(keys))
    return x
