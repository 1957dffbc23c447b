"""How close generated sentences come to the originals.

All measures see both sides after ``normalize``: Unicode NFC, lower case, white space
collapsed. BLEU is the corpus BLEU of SacreBLEU (Post, WMT 2018) with its ``13a``
tokenizer and exponential smoothing, one reference; ``GenerationScores.signature`` is
its own record of that. Exact match and F1 use the normalized text as it is.
"""

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from energyflow_mlx.errors import has_package, install_command


@dataclass(frozen=True)
class GenerationScores:
    """Scores of a set of generated sentences.

    Attributes:
        bleu: Corpus BLEU, 0 to 100; none where SacreBLEU is not installed.
        exact: Share of sentences equal to their reference, 0 to 1.
        token_f1: Mean F1 of the bags of white-space tokens, 0 to 1.
        sentences: Number of sentences.
        signature: What kind of BLEU it is, in SacreBLEU's notation; none without it.
    """

    bleu: float | None
    exact: float
    token_f1: float
    sentences: int
    signature: str | None


def normalize(text: str) -> str:
    """NFC, lower case, single spaces, none at the ends."""
    return " ".join(unicodedata.normalize("NFC", text).lower().split())


def score_generation(
    hypotheses: Sequence[str], references: Sequence[str]
) -> GenerationScores:
    """Score generated sentences against one reference each.

    Raises:
        ValueError: The two lists differ in length or are empty.
    """
    if len(hypotheses) != len(references) or not references:
        raise ValueError(
            "[score_generation] hypotheses and references must be as many, at least "
            f"one, got {len(hypotheses)} and {len(references)}."
        )
    pairs = [
        (normalize(hypothesis), normalize(reference))
        for hypothesis, reference in zip(hypotheses, references, strict=True)
    ]
    bleu, signature = _bleu(pairs) if has_package("sacrebleu") else (None, None)
    return GenerationScores(
        bleu=bleu,
        exact=sum(h == r for h, r in pairs) / len(pairs),
        token_f1=sum(_token_f1(h, r) for h, r in pairs) / len(pairs),
        sentences=len(pairs),
        signature=signature,
    )


def exact_rows(hypotheses: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """Which sentences are equal to their reference after ``normalize``, ``[N]``."""
    pairs = zip(hypotheses, references, strict=True)
    return np.array([normalize(a) == normalize(b) for a, b in pairs])


def decoding_metrics(texts: Sequence[str], truth: Sequence[str]) -> dict[str, float]:
    """BLEU where it is installed, share of exact matches and token F1 of sentences."""
    scores = score_generation(texts, truth)
    bleu = {} if scores.bleu is None else {"bleu": scores.bleu}
    return bleu | {"exact": scores.exact, "token_f1": scores.token_f1}


def note_on_bleu(metrics: Mapping[str, object]) -> list[list[str]]:
    """Row of a table that says how to get BLEU, where only it was not measured.

    Args:
        metrics: What was measured, by name.
    """
    is_missing = "exact" in metrics and "bleu" not in metrics
    return [["bleu", install_command("bleu")]] if is_missing else []


def _bleu(pairs: Sequence[tuple[str, str]]) -> tuple[float, str]:
    """Corpus BLEU of (hypothesis, reference), and its signature."""
    from sacrebleu.metrics.bleu import BLEU  # slow to import, and only wanted here

    # Lower-casing again changes nothing; it makes the signature say case:lc.
    metric = BLEU(lowercase=True, tokenize="13a")
    score = metric.corpus_score([h for h, _ in pairs], [[r for _, r in pairs]])
    return float(score.score), str(metric.get_signature())


def _token_f1(hypothesis: str, reference: str) -> float:
    """F1 of two bags of tokens; two empty texts agree fully."""
    a, b = Counter(hypothesis.split()), Counter(reference.split())
    if not a and not b:
        return 1.0
    return 2 * (a & b).total() / (a.total() + b.total())
