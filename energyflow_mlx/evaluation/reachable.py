"""What a decoder that never errs could write: the limits of vocabulary and clean-up.

A sentence is turned into tokens and back. Where that does not give it again, no decoder
can be exact on it, and this says why.
"""

from collections.abc import Sequence

import numpy as np

from energyflow_mlx.evaluation.generation import exact_rows


def reach(
    texts: Sequence[str],
    back: Sequence[str],
    lengths: np.ndarray,
    longest: int,
    is_unknown: np.ndarray,
) -> dict[str, float]:
    """Shares of sentences that can be written, and of those that cannot, by cause.

    ``reachable`` compares as ``exact`` does, and with the shares of ``unreachable_``
    gives 1. Of several causes the first counts: ``length``, longer than is read;
    ``unknown``, a sign that the vocabulary cannot spell; ``punctuation``, the same
    letters and digits with other signs or spaces between them; ``other``, such as
    accents. ``changed_case`` is the share that can be written in another case alone,
    which ``exact`` does not ask for.

    Args:
        texts: The sentences, at least one.
        back: What is left of each as ``longest`` tokens.
        lengths: Tokens of each whole sentence, ``[N]``.
        longest: Most tokens that are read.
        is_unknown: Whether a token of it stands for what cannot be spelt, ``[N]``.
    """
    is_reached = exact_rows(back, texts)
    left = ~is_reached
    shares: dict[str, float] = {"reachable": float(is_reached.mean())}
    for cause, holds in (
        ("length", lengths > longest),
        ("unknown", is_unknown),
        ("punctuation", exact_rows(_letters_of(back), _letters_of(texts))),
        ("other", np.ones(len(texts), bool)),
    ):
        shares[f"unreachable_{cause}"] = float((left & holds).mean())
        left &= ~holds
    pairs = zip(back, texts, strict=True)
    has_case = np.array(["".join(a.split()) == "".join(b.split()) for a, b in pairs])
    return shares | {"changed_case": float((is_reached & ~has_case).mean())}


def _letters_of(texts: Sequence[str]) -> list[str]:
    """Letters and digits of each text."""
    return ["".join(filter(str.isalnum, text)) for text in texts]
