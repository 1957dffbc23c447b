"""Decoded sentences after so many corrections: their figures, by group; the worst."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from energyflow_mlx.data.files import read_lines
from energyflow_mlx.errors import InputError
from energyflow_mlx.evaluation.generation import decoding_metrics, exact_rows

Figures = dict[str, Any]
Groups = Mapping[str, np.ndarray]

PREFIX = "corrections_"
HEADS = ("group", "sentences", "corrections", "BLEU", "exact", "token F1", "cosine")
SPEED = "sentences/s"
_SCORES = ("bleu", "exact", "token_f1", "cosine")
ALL = "all"


def numbers_of(given: Any) -> list[int]:
    """Numbers of corrections to measure after, rising.

    Args:
        given: A number, a list of them, or none.

    Raises:
        InputError: Something else was given.
    """
    numbers = [] if given is None else given if isinstance(given, list) else [given]
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise InputError(
            f"[evaluate] corrections must be numbers >= 0, such as [0,1,4,8], got "
            f"{given}."
        )
    return sorted(set(numbers))


def read_labels(paths: Sequence[str], count: int) -> list[str]:
    """Where each held-out sentence is from, a line of the files each.

    Args:
        paths: Text files, one after the other.
        count: Held-out sentences.

    Raises:
        InputError: There are not as many lines as sentences.
    """
    labels = [line.strip() for path in paths for _, line in read_lines(Path(path))]
    if len(labels) != count:
        raise InputError(
            f"[evaluate] sources must have {count} lines, one for each held-out "
            f"sentence, got {len(labels)}."
        )
    return labels


@dataclass
class Written:
    """What was written after a number of corrections.

    Attributes:
        texts: Of every sentence.
        cosines: Of their vectors with the targets, ``[N]``.
        seconds: From the start, the time of embedding included.
    """

    texts: list[str]
    cosines: np.ndarray
    seconds: float


def correction_figures(
    found: Mapping[int, Written], truth: Sequence[str], groups: Mapping[str, Groups]
) -> dict[str, Figures]:
    """BLEU, exact matches, token F1 and cosine, of all sentences and of groups.

    Args:
        found: What was written after each number of corrections.
        truth: What should have been.
        groups: Numbers of the sentences of each group, by kind of group and name.

    Returns:
        For each number of corrections, under ``corrections_N``, the scores and
        ``sentences_per_second``, and for each kind of group the scores by name; each
        with the number of ``sentences``.
    """
    result: dict[str, Figures] = {}
    for number, written in found.items():
        every = np.arange(len(truth))
        speed = len(truth) / max(written.seconds, 1e-9)
        figures: Figures = {"sentences": len(truth)} | _scores(written, truth, every)
        figures["sentences_per_second"] = speed
        for kind, members in groups.items():
            figures[kind] = {
                name: {"sentences": len(rows)} | _scores(written, truth, rows)
                for name, rows in members.items()
            }
        result[f"{PREFIX}{number}"] = figures
    return result


def _scores(written: Written, truth: Sequence[str], rows: np.ndarray) -> Figures:
    texts, expected = ([side[n] for n in rows] for side in (written.texts, truth))
    scores = decoding_metrics(texts, expected)
    return scores | {"cosine": float(written.cosines[rows].mean())}


def failures(found: Mapping[int, Written], truth: Sequence[str], most: int) -> Figures:
    """Sentences that are not exact after the most corrections, the farthest first.

    Args:
        found: What was written after each number of corrections.
        truth: What should have been.
        most: Sentences at most.

    Returns:
        How many are ``wrong`` of how many ``sentences``, and the ``worst``: each a
        ``sentence``, and under ``written`` for each number of corrections the text and
        its cosine.
    """
    last = found[max(found)]
    wrong = np.flatnonzero(~exact_rows(last.texts, truth))
    order = wrong[np.argsort(last.cosines[wrong], kind="stable")]
    worst = [
        {
            "sentence": truth[row],
            "written": [
                {"corrections": number, "text": own.texts[row]}
                | {"cosine": float(own.cosines[row])}
                for number, own in found.items()
            ],
        }
        for row in order[:most]
    ]
    return {"wrong": len(wrong), "sentences": len(truth), "worst": worst}


def correction_rows(result: Mapping[str, Any]) -> list[list[Any]]:
    """Rows of a table of ``correction_figures``, under ``HEADS`` and ``SPEED``.

    Each group after each number of corrections, so that these stand together.

    Args:
        result: Figures of an evaluation, others among them.
    """
    after = {
        int(name.removeprefix(PREFIX)): figures
        for name, figures in result.items()
        if name.startswith(PREFIX)
    }
    rows: dict[str, list[list[Any]]] = {}
    for number, figures in after.items():
        groups = {ALL: figures} | {
            f"{kind}: {name}": own
            for kind, members in figures.items()
            if isinstance(members, dict)
            for name, own in members.items()
        }
        for name, own in groups.items():
            scores = [own.get(score) for score in _SCORES]
            size, speed = own.get("sentences"), own.get("sentences_per_second")
            rows.setdefault(name, []).append([name, size, number, *scores, speed])
    return [row for own in rows.values() for row in own]
