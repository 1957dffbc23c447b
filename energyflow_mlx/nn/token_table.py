"""Token table: ids to rows, whether the whole table is there or only some of its rows.

A training update may hold only the rows of a table that it touches: gathered before
the forward pass, so that gradient and moments are ``[U, D]`` instead of ``[V, D]``. The
ids that reach the model stay token ids all the same. The table is told where the rows
of the tokens went, and looks there.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx
import mlx.nn as nn

from energyflow_mlx.ops import embedding

_STD = 0.02


class TokenTable(nn.Embedding):
    """Table ``weight [V, D]``, normal with standard deviation 0.02 at the start."""

    def __init__(self, vocab_size: int, dim: int) -> None:
        """Create a table of ``vocab_size`` tokens with ``dim`` features each."""
        super().__init__(vocab_size, dim)
        self.weight = mx.random.normal((vocab_size, dim), scale=_STD)
        self._place: mx.array | None = None
        self._dtype: mx.Dtype | None = None

    def __call__(self, ids: mx.array) -> mx.array:
        """Rows of tokens.

        Args:
            ids: Token ids of any shape, integers; zeros for one outside the table.

        Returns:
            ``[*ids.shape, D]`` in the table's dtype, unless another is being read.
        """
        ids = ids if self._place is None else self._place[ids]
        return embedding(self.weight, ids, dtype=self._dtype)

    @contextmanager
    def gathered(
        self, place: mx.array | None, dtype: mx.Dtype | None = None
    ) -> Iterator[None]:
        """Look tokens up in ``weight[place[ids]]`` inside the ``with`` block.

        State, because parameters are state in MLX: a gathered table is installed into
        the module, and ids mean nothing to it without its places. So whoever installs
        the rows sets their places in the same breath, and takes both away again.
        ``as_linear`` uses the rows as they stand: its outputs are theirs, in order.

        Args:
            place: Row of each token in the present ``weight``, ``[V]`` int32; what it
                says of a token that was not gathered is never asked. None when
                ``weight`` is the whole table.
            dtype: Format of the rows that are read; that of the table if None. The
                table itself stays as it is, and so does its gradient.
        """
        before = self._dtype, self._place
        self._dtype, self._place = dtype, place
        try:
            yield
        finally:
            self._dtype, self._place = before
