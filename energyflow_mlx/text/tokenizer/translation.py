"""One vocabulary's tokens in another's: what a table of the other starts from."""

import numpy as np

from energyflow_mlx.errors import InputError
from energyflow_mlx.text.tokenizer.tokenizer import Tokenizer
from energyflow_mlx.text.tokenizer.vocabulary import CONTINUES, spell


def spelt_by(other: Tokenizer, tokens: Tokenizer) -> list[np.ndarray]:
    """Ids of ``other`` that spell each token: one id where it has the token itself.

    Args:
        other: The vocabulary that spells.
        tokens: The vocabulary that is spelt, V tokens.

    Returns:
        V rows of int64, none empty.

    Raises:
        InputError: The two are of different kinds, or cut from different sources.
    """
    is_marked = tokens.kind == "wordpiece"
    if tokens.kind != other.kind or (is_marked and not tokens.shares_source(other)):
        raise InputError(
            f"[tokenizer] a vocabulary can be carried over to one of its kind and "
            f"source, got {other.kind} to {tokens.kind} of another source."
        )
    ids = {token: i for i, token in enumerate(other.tokens)}
    mark = CONTINUES if is_marked else ""
    return [
        np.array([ids[t] for t in spell(token, ids.__contains__, mark)], np.int64)
        for token in tokens.tokens
    ]
