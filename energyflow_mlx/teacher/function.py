"""Any Python function as a teacher: texts in, vectors out.

A function is code. It is imported only where the user names it, on the command line or
in Python; a name that stands in the files of a run is compared, never imported.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from energyflow_mlx.data.distinct import deduplicate
from energyflow_mlx.data.vectors import require_taught, unit_rows
from energyflow_mlx.errors import InputError

Embed = Callable[[Sequence[str]], Any]

# Texts of one call, unless the user says otherwise.
_BATCH_TEXTS = 256
# A call that only shows the width of the vectors.
_PROBE = ["A dog runs on the beach."]


def import_function(name: str | None) -> Embed | None:
    """Import a function that the user has named.

    Args:
        name: ``package.module:name``; none gives none.

    Raises:
        InputError: There is no such module or function in it.
    """
    if name is None:
        return None
    module_name, _, attribute = name.partition(":")
    words = module_name.split(".")
    if not all(word.isidentifier() for word in [*words, attribute]):
        raise InputError(
            f"[teacher] teacher.function must be package.module:name, got {name!r}."
        )
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise InputError(
            f"[teacher] teacher.function {name}: no module {error.name!r}; it is "
            "looked for in the current folder and among the installed packages."
        ) from error
    function = getattr(module, attribute, None)
    if not callable(function):
        found = "nothing" if function is None else type(function).__name__
        raise InputError(
            f"[teacher] teacher.function {name}: {module_name} must have a function "
            f"{attribute!r}, got {found}."
        )
    return function


class FunctionTeacher:
    """A function as a teacher; what it raises passes through.

    Args:
        function: Maps a list of texts to ``[N, E]`` floats, one row per text.
        name: What it is called; part of the key of cached vectors.
        version: Changed by the user when the function changes; part of that key.
        normalize: Scale every vector to unit length.

    Attributes:
        name: The same.
        normalized: Whether rows have unit length.
        max_length: 0: the function itself cuts long texts, or does not.
        tokenizer_path: None: it has no vocabulary.
        word_embeddings: None: it has no token table.
        pooling: ``function``.
    """

    max_length = 0
    tokenizer_path: Path | None = None
    word_embeddings: np.ndarray | None = None
    pooling = "function"

    def __init__(
        self, function: Embed, *, name: str, version: str, normalize: bool
    ) -> None:
        self._function = function
        self._version = version
        self.name = name
        self.normalized = normalize

    @property
    def fingerprint(self) -> str:
        """Names the function, its version and the scaling."""
        identity = ["function", self.name, self._version]
        digest = hashlib.sha256(
            json.dumps(identity, allow_nan=False).encode()
        ).hexdigest()
        return f"{digest}-{'unit' if self.normalized else 'raw'}"

    @cached_property
    def dimension(self) -> int:
        """Width E of a vector, which one call shows."""
        return int(self._call(_PROBE).shape[1])

    def encode(
        self,
        texts: Sequence[str],
        *,
        batch_size: int = 0,
        progress: Callable[[int, int], None] | None = None,
        may_be_zero: bool = False,
    ) -> np.ndarray:
        """Encode sentences; equal ones are computed once.

        Args:
            texts: Sentences.
            batch_size: Most sentences in one call; 0 = 256.
            progress: As for ``Teacher.encode``.
            may_be_zero: Accept a vector of zeros, which no sentence to learn from may
                have, but a text that a decoder made up can.

        Returns:
            ``[N, E]`` float32, in the order of ``texts``.

        Raises:
            TypeError: ``texts`` is a single string.
            InputError: The function's result has another shape or dtype, or a vector
                is not finite or has an impossible length.
        """
        if isinstance(texts, str):
            raise TypeError("[teacher] texts must be a list of strings, got a string.")
        distinct, position = deduplicate(texts)
        size = batch_size or _BATCH_TEXTS
        vectors = np.empty((len(distinct), self.dimension), np.float32)
        for start in range(0, len(distinct), size):
            block = list(distinct[start : start + size])
            vectors[start : start + len(block)] = self._checked(block, may_be_zero)
            if progress is not None:
                progress(start + len(block), len(distinct))
        return vectors[position]

    def _checked(self, block: list[str], may_be_zero: bool) -> np.ndarray:
        rows = self._call(block)
        if rows.shape[1] != self.dimension:
            raise InputError(
                f"[teacher] {self.name} must give vectors of {self.dimension} numbers "
                f"each time, got {rows.shape[1]}."
            )
        judged = np.flatnonzero(rows.any(axis=1) | (not may_be_zero))
        require_taught(rows[judged], self.name, [block[i] for i in judged])
        return unit_rows(rows) if self.normalized else rows

    def _call(self, texts: list[str]) -> np.ndarray:
        """One call, its result as float32 ``[N, E]``."""
        given = self._function(list(texts))
        try:
            rows = np.asarray(given)
        except ValueError as error:  # lists of different lengths
            raise InputError(
                f"[teacher] {self.name} must give floats [{len(texts)}, E]: {error}."
            ) from error
        is_matrix = rows.ndim == 2 and len(rows) == len(texts) and rows.shape[1] > 0
        if not is_matrix or not np.issubdtype(rows.dtype, np.floating):
            raise InputError(
                f"[teacher] {self.name} must give floats [{len(texts)}, E], one row "
                f"per text, got {rows.dtype} {list(rows.shape)}."
            )
        with np.errstate(over="ignore"):  # an infinity is refused by name of its text
            return rows.astype(np.float32)
