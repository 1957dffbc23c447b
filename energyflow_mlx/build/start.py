"""Starting a run from the weights of another: fine-tuning, also with new words.

Parts that the other run trained are taken over; the optimizer's state is not. A token
that both vocabularies have keeps its rows in the token tables; the rows of a new one
are the mean of the rows that spelt it before, so that a sentence begins near the vector
it had.
"""

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from energyflow_mlx.build.codec import load
from energyflow_mlx.errors import InputError
from energyflow_mlx.inference import SentenceCodec
from energyflow_mlx.model import EnergyFlow, flat_parameters, install_parameters
from energyflow_mlx.runs.checkpoint import require_match
from energyflow_mlx.runs.record import Start
from energyflow_mlx.text.tokenizer import Tokenizer
from energyflow_mlx.text.tokenizer.translation import spelt_by
from energyflow_mlx.training.token_rows import is_token_parameter

Arrays = dict[str, mx.array]


def start_from(
    path: str, model: EnergyFlow, tokenizer: Tokenizer, dimension: int
) -> Start:
    """Put the weights of a finished or interrupted run into a fresh model.

    Args:
        path: The other run, or anything that ``load`` takes; its best weights count.
        model: Freshly built; changed in place.
        tokenizer: The fresh model's vocabulary.
        dimension: Size E of its vectors.

    Returns:
        What was taken.

    Raises:
        InputError: The other run is missing or damaged, its vectors, vocabulary or
            shapes do not fit, or it trained none of the parts that this one has.
    """
    other = load(path)
    if other.dimension != dimension:
        raise InputError(
            f"[init] {path} must give vectors of {dimension} numbers as this run's "
            f"teacher, got {other.dimension}."
        )
    own = flat_parameters(model)
    parts = {name.partition(".")[0] for name in own}
    taken = {p for p in parts if other.record.has_reached(p) and p in other.model}
    if not taken:
        raise InputError(
            f"[init] {path} must have trained {' or '.join(sorted(parts))}, which this "
            f"run has, got {', '.join(sorted(other.record.trained))}."
        )
    spelling = spelt_by(other.tokenizer, tokenizer)
    arrays = _translated(other, taken, spelling)
    wanted = {name: a for name, a in own.items() if name.partition(".")[0] in taken}
    require_match(wanted, arrays, f"init={path}")
    install_parameters(model, arrays)
    known = set(other.tokenizer.tokens)
    shared = sum(token in known for token in tokenizer.tokens)
    return Start(
        run=path,
        step=other.record.step,
        trained=frozenset(
            p for p in other.record.trained if not p or p.partition(".")[0] in taken
        ),
        fresh=frozenset(parts - taken),
        tokens=shared,
        new_tokens=tokenizer.vocab_size - shared,
    )


def _translated(
    other: SentenceCodec, taken: set[str], spelling: Sequence[np.ndarray]
) -> Arrays:
    """The other run's parameters of some parts, token tables in the new vocabulary."""
    arrays: Arrays = {}
    for name, array in flat_parameters(other.model).items():
        if name.partition(".")[0] in taken:
            is_table = is_token_parameter(name)
            arrays[name] = _mean_rows(array, spelling) if is_table else array
    return arrays


def _mean_rows(table: mx.array, spelling: Sequence[np.ndarray]) -> mx.array:
    """Row of each token as the mean of those that spell it, ``[V, ...]`` float32."""
    rows = np.array(table)
    return mx.array(np.stack([rows[ids].mean(axis=0) for ids in spelling]))
