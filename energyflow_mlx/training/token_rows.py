"""The rows of the token tables that one update touches.

A vocabulary has tens of thousands of tokens, an update's sentences a few hundred. Three
things follow from naming those few once per update:

gathered tables   The update works on the rows ``table[tokens]``, ``[U, D]``, in place
                  of the table ``[V, D]``: gradient and moments of all other rows are
                  never computed. Token ids stay ids; ``place`` maps them to rows.
sampled softmax   With candidates the rows are the tokens that occur and drawn
                  negatives, the decoder's output matrix is gathered too, and its
                  softmax runs over the U candidates. Each logit is lowered by
                  ``log_p``, the log probability that the row is a candidate, which
                  makes the sampled partition function unbiased (Jean et al., "On Using
                  Very Large Target Vocabulary for Neural Machine Translation", 2015,
                  section 3).
row update        AdamW on the gathered rows, written back into table and moments.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from energyflow_mlx.config import Config, OptimizerConfig
from energyflow_mlx.model import EnergyFlow, install_parameters
from energyflow_mlx.ops import embedding, on_gpu, pack_rows
from energyflow_mlx.ops.adamw import Adamw, Rates, adamw_rows
from energyflow_mlx.training.optimizer import Arrays, constants

_INPUT = re.compile(r"^(encoder|decoder)\.embedding\.weight$")
_OUTPUT = re.compile(r"^decoder\.(output\.weight|output\.bias|output_bias)$")
_TIED = "decoder.embedding.weight"
# Rows are added in steps, so that few shapes are compiled.
_MORE_ROWS = 1024


class TokenRows(NamedTuple):
    """Rows of one update; NumPy arrays while it is prepared, then on the device.

    Attributes:
        tokens: Distinct token ids, ``[U]`` int32; none where the rows are the whole
            table, U = V.
        occurs: 1 where the token occurs in the update, 0 where the row is a drawn
            negative, only fills the size or is one of the others, ``[U]`` float32.
        place: Row of each token id among the gathered ones, ``[V]`` int32, -1 for the
            others; none where the rows are the whole table.
        log_p: Log probability that the row is among the candidates, ``[U]`` float32;
            none where the softmax runs over the whole vocabulary.
    """

    tokens: mx.array | np.ndarray | None
    occurs: mx.array | np.ndarray
    place: mx.array | np.ndarray | None
    log_p: mx.array | np.ndarray | None = None


def gathering_pays(count: int, vocab_size: int) -> bool:
    """Whether an update of ``count`` tokens is faster on gathered rows.

    Otherwise it passes over the whole table and leaves the rows of tokens that do not
    occur as they are: the same update. To gather rows of a table and its two moments
    and put them back are six scattered passes. An H200 does the whole pass, 77 us for
    30,522 x 384, in the time of a sixteenth of the rows; a CPU in that of a half.
    """
    return count * (16 if on_gpu() else 2) <= vocab_size


# -- preparing, on the host -----------------------------------------------------------


def occurring_rows(ids: np.ndarray, vocab_size: int) -> TokenRows:
    """Rows of the tokens in padded ids ``[B, L]``, filled to ``U = min(B * L, V)``.

    The fillers are ids that do not occur: a fixed size means one compiled shape.
    """
    occurs = np.zeros(vocab_size, bool)
    occurs[ids] = True
    real = np.flatnonzero(occurs)
    size = min(ids.size, vocab_size)
    fillers = np.flatnonzero(~occurs)[: size - len(real)]
    index = np.concatenate([real, fillers]).astype(np.int32)
    occurring = (np.arange(size) < len(real)).astype(np.float32)
    return TokenRows(index, occurring, _places(index, vocab_size))


def _places(tokens: np.ndarray, vocab_size: int) -> np.ndarray:
    """Inverse of ``tokens``, ``[V]``: the row of each token, or -1."""
    place = np.full(vocab_size, -1, np.int32)
    place[tokens] = np.arange(len(tokens))
    return place


def whole_rows(ids: np.ndarray, vocab_size: int) -> TokenRows:
    """All rows of the tables, and which tokens are in ids ``[B, L]``."""
    occurs = np.zeros(vocab_size, np.float32)
    occurs[ids] = 1.0
    return TokenRows(None, occurs, None)


def draw_candidates(
    rows: TokenRows,
    shares: np.ndarray,
    total: float,
    count: int,
    seed: Sequence[int],
) -> TokenRows:
    """Occurring rows and uniformly drawn negatives.

    P(row j is a candidate) = p_j + (1 - p_j) * drawn / (V - occurring), with
    p_j = 1 - (1 - share_j)^T the chance that token j occurs among the update's T.

    Args:
        rows: Of ``occurring_rows``.
        shares: Share of each token in the training text, ``[V]``.
        total: Number of tokens T of the update.
        count: Rows wanted; more, in steps of 1,024, where more tokens occur.
        seed: Seed of the draw: that of the run and the update's number.

    Returns:
        The candidates, with ``log_p``.
    """
    vocabulary = len(shares)
    assert rows.tokens is not None
    occurring = rows.tokens[np.asarray(rows.occurs) > 0]
    wanted = count
    while wanted < len(occurring):
        wanted += _MORE_ROWS
    capacity = min(wanted, vocabulary)
    absent = np.ones(vocabulary, bool)
    absent[occurring] = False
    others = np.flatnonzero(absent)
    drawn = capacity - len(occurring)
    random = np.random.Generator(np.random.PCG64(list(seed)))
    negatives = random.choice(others, drawn, replace=False)
    index = np.concatenate([occurring, negatives]).astype(np.int32)
    occurs = 1.0 - np.exp(total * np.log1p(-shares[index]))
    drawing = drawn / max(len(others), 1)
    log_p = np.log(occurs + (1.0 - occurs) * max(drawing, 1e-6))
    valid = (np.arange(capacity) < len(occurring)).astype(np.float32)
    place = _places(index, vocabulary)
    return TokenRows(index, valid, place, log_p.astype(np.float32))


def token_shares(rows: Sequence[np.ndarray], vocab_size: int) -> np.ndarray:
    """Share of each token among all tokens of the training text, ``[V]`` float64."""
    counts = np.bincount(np.concatenate(rows), minlength=vocab_size)
    return counts / counts.sum()


# -- which tables, by path ------------------------------------------------------------


def gathered_tables(parameters: Collection[str], config: Config) -> set[str]:
    """Paths of the tables that enter an update as its rows only.

    Token tables do with ``token_rows.lazy``; the decoder's output rows do with
    ``token_rows.candidates``. A token table that is also the output matrix gets a dense
    gradient from a full softmax and is then stepped as a whole.
    """
    gathered = set()
    if config.token_rows.lazy:
        gathered |= {p for p in parameters if _INPUT.match(p)}
    if config.token_rows.candidates:
        gathered |= {p for p in parameters if _OUTPUT.match(p)}
    if config.decoder.tied and _TIED in parameters:
        gathered.discard(_TIED)
        gathered |= {_TIED} if config.token_rows.candidates else set()
    return gathered


def is_token_parameter(path: str) -> bool:
    """Whether a parameter has a row for each token.

    Its readers, the embedding and the linear cross entropy, take float32 rows and give
    their gradient in float32: a pass over the whole vocabulary to change the format,
    and a second one for the gradient, are spared.
    """
    return bool(_INPUT.match(path) or _OUTPUT.match(path))


def is_only_looked_up(path: str, config: Config) -> bool:
    """Whether a table is never an output matrix: drawn negatives do not move it."""
    return bool(_INPUT.match(path)) and not (config.decoder.tied and path == _TIED)


# -- in the graph ---------------------------------------------------------------------


def gather(parameters: Arrays, gathered: Collection[str], rows: TokenRows) -> Arrays:
    """Parameters with the rows of the update in place of every gathered table."""
    if rows.tokens is None:
        return parameters
    return {**parameters, **{p: _at(parameters[p], rows.tokens) for p in gathered}}


def _at(table: mx.array, rows: mx.array) -> mx.array:
    """Rows of a table ``[V, D]`` or ``[V]``."""
    return embedding(table, rows) if table.ndim == 2 else table[rows]


@contextmanager
def installed(
    model: EnergyFlow,
    parameters: Arrays,
    gathered: Collection[str],
    rows: TokenRows,
    dtype: mx.Dtype,
) -> Iterator[None]:
    """Put an update's parameters into the model; token ids find their gathered rows.

    The parameters stay when the block ends: whoever ran an update installs its result.

    Args:
        model: Changed in place.
        parameters: By path, tables as ``gather`` left them.
        gathered: Paths of the gathered tables.
        rows: Rows of the update.
        dtype: Compute format, in which tokens are looked up.
    """
    install_parameters(model, parameters)
    with ExitStack() as stack:
        for part in ("encoder", "decoder"):
            path = f"{part}.embedding.weight"
            if path in parameters:
                place = rows.place if path in gathered else None
                stack.enter_context(model[part].embedding.gathered(place, dtype))
        yield


def candidate_softmax(
    rows: TokenRows, tokens: mx.array
) -> tuple[mx.array, mx.array | None]:
    """Columns of target tokens, and what the logits are lowered by.

    Args:
        rows: Rows of the update.
        tokens: Target tokens, ``[T]``.

    Returns:
        Column of each target among the candidates or in the vocabulary, ``[T]``, and
        ``log_p [U]`` where there are candidates.
    """
    if rows.log_p is None or rows.place is None:
        return tokens, None
    return rows.place[tokens], rows.log_p


def step_rows(
    table: Adamw,
    gradient: mx.array,
    rows: TokenRows,
    rates: Rates,
    config: OptimizerConfig,
    *,
    only_occurring: bool,
) -> Adamw:
    """AdamW on the touched rows of a table; see ``ops.adamw.adamw_rows``.

    Args:
        table: Table and moments ``[V, D]`` or ``[V]``, count.
        gradient: Gradient of the rows of the update, ``[U, D]`` or ``[U]``.
        rows: Rows of the update.
        rates: Of the update.
        config: Betas and eps.
        only_occurring: Leave drawn negatives, fillers and rows of other tokens alone.
    """
    tokens = rows.tokens
    wanted = rows.occurs if only_occurring else mx.ones(rows.occurs.shape)
    if on_gpu() and tokens is not None and rows.place is not None:
        vocab_size = table.p.shape[0]
        if not gathering_pays(tokens.size, vocab_size):
            # One masked pass over the table takes less than six scattered ones.
            flat = gradient.reshape(len(gradient), -1)  # [U, D]
            gradient = pack_rows(flat, rows.place, tokens).reshape(table.p.shape)
            each = wanted[mx.maximum(rows.place, 0)]
            tokens, wanted = None, mx.where(rows.place >= 0, each, 0.0)
    return adamw_rows(table, gradient, tokens, wanted, rates, constants(config))
