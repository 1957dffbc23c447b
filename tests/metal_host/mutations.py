"""Systematic small mistakes in kernel text: each mutant differs in one place."""

import re
from dataclasses import dataclass

from tests.metal_host.harness.translate import blank_comments

_BARRIER = (
    r"(?:threadgroup_barrier|simdgroup_barrier|__syncthreads|__syncwarp)\([^;]*\);"
)
# Class of mistake, pattern of the text, replacement.
_RULES = (
    ("drop-barrier", _BARRIER, ""),
    ("weaken-barrier", r"mem_flags::mem_threadgroup", "mem_flags::mem_none"),
    ("wrong-memory", r"mem_flags::mem_threadgroup", "mem_flags::mem_device"),
    ("bound", r" < ", " <= "),
    ("bound", r" <= ", " < "),
    ("bound", r" >= ", " > "),
    ("bound", r" > ", " >= "),
    ("equality", r" == ", " != "),
    ("equality", r" != ", " == "),
    ("sign", r" \+ ", " - "),
    ("sign", r" - ", " + "),
    ("stride", r" \* ", " + "),
    ("stride", r" / ", " * "),
    ("guard", r"if \((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\) \{", "if (true) {"),
    ("condition", r" && ", " || "),
    ("condition", r" \|\| ", " && "),
    ("accumulate", r" \+= ", " = "),
    ("zero", r" = 0\.0f;", " = 1.0f;"),
    ("offset", r" \+ 1\b", ""),
    ("width", r"\b32\b", "16"),
    ("rounding", r"\brint(f?)\(", r"round\1("),
    ("rounding", r"\brint(f?)\(", r"floor\1("),
    ("extreme", r"\bmin\(", "max("),
    ("extreme", r"\bmax\(", "min("),
)


@dataclass(frozen=True)
class Mutant:
    """One changed text.

    Attributes:
        kind: Class of mistake.
        line: Line of the change.
        shown: That line after the change.
        text: The whole changed text.
    """

    kind: str
    line: int
    shown: str
    text: str


def mutants(text: str) -> list[Mutant]:
    """All mutants of a kernel text, without duplicates."""
    code = blank_comments(text)
    found: dict[str, Mutant] = {}
    for kind, pattern, replacement in _RULES:
        for match in re.finditer(pattern, code):
            changed = (
                code[: match.start()] + match.expand(replacement) + code[match.end() :]
            )
            line = code.count("\n", 0, match.start()) + 1
            shown = changed.splitlines()[line - 1].strip()
            if changed != code and not shown.startswith("#"):
                found.setdefault(changed, Mutant(kind, line, shown, changed))
    return list(found.values())
