"""The TCN blocks of a network: how they are made, and where sharing cuts them.

Encoder and decoder may share their last blocks. Shared blocks have one owner, the
whole model, and come in as a call argument: a layer reachable by two attribute paths
would get its gradient on one of them only. They run last and are causal.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import mlx.core as mx

from energyflow_mlx.nn.context import SentenceContext
from energyflow_mlx.nn.dropout import key_stream
from energyflow_mlx.nn.tcn import TCNBlock
from energyflow_mlx.ops.tcn_block import Film


@dataclass(frozen=True)
class BlockList:
    """One block per dilation; the last ``shared`` of them belong to the whole model.

    Nothing is built before it is asked for, so that weights are drawn where their
    owner's constructor has come to them.

    Attributes:
        dim: Width D of the tokens.
        hidden: Width H inside a block.
        kernel_size: Taps of a block's convolution.
        dilations: Distance of the taps, one per block, shared blocks included.
        causal: Whether the own blocks are; shared ones always are.
        dropout: Rate on each block's branch, in training.
        gelu: ``"exact"`` or ``"tanh"``.
        shared: How many of the last blocks come with the call.
        context: Whether tokens get what the whole sentence says after each own block,
            unless it is the last of all; see :class:`SentenceContext`. Shared blocks
            stay as they are, and nothing comes between them.
    """

    dim: int
    hidden: int
    kernel_size: int
    dilations: Sequence[int]
    causal: bool
    dropout: float
    gelu: str
    shared: int
    context: bool

    def __post_init__(self) -> None:
        """Check the number of blocks, of shared ones, and what a token may see."""
        if not self.dilations:
            raise ValueError(
                "[BlockList] dilations must name at least one block, got none."
            )
        if not 0 <= self.shared <= self.count:
            raise ValueError(
                f"[BlockList] shared must be between 0 and {self.count}, "
                f"got {self.shared}."
            )
        if self.causal and self.context:
            raise ValueError(
                "[BlockList] context must be off in causal blocks, since it tells "
                "tokens of later ones, got context=True."
            )

    @property
    def count(self) -> int:
        """Number of blocks, shared ones included."""
        return len(self.dilations)

    def __iter__(self) -> Iterator[TCNBlock]:
        """Build the own blocks, one at a time."""
        own = self.dilations[: self.count - self.shared]
        return (self._build(dilation, causal=self.causal) for dilation in own)

    def build_contexts(self) -> list[SentenceContext]:
        """Build what follows the first blocks, one context each; may be none."""
        own = self.count - self.shared
        count = min(own, self.count - 1) if self.context else 0
        return [SentenceContext(self.dim) for _ in range(count)]

    def build_shared(self) -> list[TCNBlock]:
        """Build the shared blocks, for the one that owns them."""
        last = self.dilations[self.count - self.shared :]
        return [self._build(dilation, causal=True) for dilation in last]

    def _build(self, dilation: int, *, causal: bool) -> TCNBlock:
        return TCNBlock(
            self.dim,
            self.hidden,
            self.kernel_size,
            dilation,
            causal=causal,
            dropout=self.dropout,
            gelu=self.gelu,
        )

    def check_shared(self, name: str, shared: Sequence[TCNBlock]) -> None:
        """Check the shared blocks of a call against what the network was built for.

        Raises:
            ValueError: Their number or width differs, or one is not causal.
        """
        check_shared_count(name, shared, self.shared)
        for block in shared:
            if block.dim != self.dim or not block.causal:
                raise ValueError(
                    f"[{name}] shared blocks must be causal with D = {self.dim}, "
                    f"got causal={block.causal}, D = {block.dim}."
                )


def check_shared_count(name: str, shared: Sequence[TCNBlock], expected: int) -> None:
    """Check how many shared blocks a call brings.

    Raises:
        ValueError: Not as many as ``expected``.
    """
    if len(shared) != expected:
        raise ValueError(
            f"[{name}] shared must hold {expected} blocks, got {len(shared)}."
        )


def run_blocks(
    blocks: Sequence[TCNBlock],
    x: mx.array,
    mask: mx.array,
    films: Sequence[Film | None] | None = None,
    contexts: Sequence[SentenceContext] = (),
    *,
    key: mx.array | None = None,
) -> mx.array:
    """Apply ``blocks`` one after the other.

    Args:
        blocks: Own blocks, then shared ones.
        x: Token features, ``[B, L, D]``.
        mask: 1 for real tokens, ``[B, L]``.
        films: Scale and shift of each block, or none of them.
        contexts: What follows the first blocks, one each.
        key: Random key of the dropouts, in training.

    Returns:
        ``[B, L, D]``, zero at padding.
    """
    films = films or [None] * len(blocks)
    keys = key_stream(key)
    for number, (block, film) in enumerate(zip(blocks, films, strict=True)):
        x = block(x, mask, film, key=next(keys))
        if number < len(contexts):
            x = contexts[number](x, mask)
    return x
