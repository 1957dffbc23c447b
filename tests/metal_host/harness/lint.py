"""Metal rules that a C++ compiler on the host cannot see, checked by text.

Two kinds: language that Metal does not have, and address spaces, which vanish on the
host. The second follows from one fact: MLX passes an input of fewer than 8 elements as
``constant`` and a larger one as ``device``, so text must never fix the space of an
input, whatever the sizes in today's test.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.metal_host.harness.faults import LintFault
from tests.metal_host.harness.translate import blank_comments

_BANNED = {
    r"\bdouble\b": "Metal has no double",
    r"\blong\s+long\b": "Metal has no long long, long has 64 bits",
    r"\bgoto\b": "Metal has no goto",
    r"\b(?:try|catch|throw)\b": "Metal has no exceptions",
    r"\b(?:new|delete)\b": "Metal has no heap",
    r"\b(?:virtual|dynamic_cast|typeid)\b": "Metal has no run-time types",
    r"\[\s*[&=]?\s*\]\s*\(": "Metal before 3.2 has no lambdas",
    r"\bstd\s*::": "Metal has no std namespace, say metal::",
    r"#\s*include\s*[<\"](?!metal_)": "only metal_ headers can be included",
    r"\b(?:mem(?:cpy|set|cmp|move)|malloc|free|printf|assert)\s*\(": (
        "Metal has no C library"
    ),
    r"\b(?:exp|exp2|log|log2|sqrt|pow|sin|cos|tan|tanh|fabs|fmin|fmax|fma|fmod|floor"
    r"|ceil|round|rint|trunc)f\s*\(": "Metal has no C float functions, say metal::",
    r"\b(?:erfc?|expm1|cbrt|lgamma|tgamma|nearbyint|remainder|l?lrint|l?lround)\s*\(": (
        "this C function is not in Metal"
    ),
}
_SPACES = r"(?:device|constant|threadgroup|thread)"
_TYPES = (
    r"(?:(?:packed_)?(?:float|half|bfloat|int|uint|short|ushort|char|uchar|long|ulong"
    r"|bool)[234]?|float16_t|bfloat16_t|u?int(?:8|16|32|64)_t|size_t)"
)
_CAST = re.compile(
    rf"(?:\(|_cast\s*<)\s*(?:const\s+)?(?P<space>{_SPACES})\b[^()<>;]*[*&]\s*[)>]"
    r"\s*\(?\s*&?\s*(?P<operand>\w+)"
)
_POINTER = re.compile(
    rf"\b(?:const\s+)?(?P<space>{_SPACES})\b(?P<type>[^=;(){{}},]*)[*&]\s*"
    r"(?:const\s+)?(?P<name>\w+)\s*=\s*[(&]*\s*(?P<operand>\w+)"
)
_GROUP_VARIABLE = re.compile(
    r"\bthreadgroup\s+(?:const\s+)?[\w:<>, ]+?\s+(\w+)\s*(?:\[|;)"
)
_FUNCTION = re.compile(r"\b(\w+)\s*\(([^(){};]*)\)\s*\{")


@dataclass(frozen=True)
class _Text:
    """Kernel text without comments, which can say where a match is."""

    kernel: str
    part: str  # "source" or "header"
    code: str

    def fail(self, position: int, message: str) -> None:
        line = self.code.count("\n", 0, position) + 1
        shown = self.code.splitlines()[line - 1].strip()
        raise LintFault(
            self.kernel, f"{self.part} line {line}: `{shown}`: {message}", line
        )


def check(
    kernel: str,
    header: str,
    source: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
) -> None:
    """Raise LintFault for the first rule that header or source breaks."""
    header_text = _Text(kernel, "header", _code(header))
    source_text = _Text(kernel, "source", _code(source))
    for text in (header_text, source_text):
        _check_language(text)
        _check_pointers_have_a_space(text)
    _check_no_static(source_text, depth=0)
    _check_no_static(header_text, depth=1)
    _check_header_has_no_group_variables(header_text)
    spaces = {name: frozenset({"device", "constant"}) for name in inputs}
    spaces |= {name: frozenset({"device"}) for name in outputs}
    spaces |= {name: frozenset({"threadgroup"}) for name in _group_variables(source)}
    _check_casts(source_text, spaces)
    _check_helper_calls(source_text, header_text, spaces)


def _code(text: str) -> str:
    literals = re.compile(r'"(?:\\.|[^"\\\n])*"')
    includes_kept = re.sub(
        r"(#\s*include[^\n]*)", lambda m: m[1].replace('"', "<"), text
    )
    return literals.sub(lambda m: " " * len(m[0]), blank_comments(includes_kept))


def _group_variables(source: str) -> list[str]:
    return _GROUP_VARIABLE.findall(_code(source))


def _check_language(text: _Text) -> None:
    for pattern, message in _BANNED.items():
        found = re.search(pattern, text.code)
        if found:
            text.fail(found.start(), message)


def _check_no_static(text: _Text, depth: int) -> None:
    """No static variables in functions, which is brace depth 1 and more of a header."""
    for found in re.finditer(r"\bstatic\b(?!\s+constexpr)", text.code):
        before = text.code[: found.start()]
        if before.count("{") - before.count("}") >= depth:
            text.fail(found.start(), "Metal functions have no static variables")


def _check_header_has_no_group_variables(header: _Text) -> None:
    found = _GROUP_VARIABLE.search(header.code)
    if found:
        header.fail(
            found.start(), "threadgroup variables belong into the kernel itself"
        )


def _check_pointers_have_a_space(text: _Text) -> None:
    """A plain `float* p` is an error in Metal; so is a plain `float& r`."""
    generic = "|".join(re.findall(r"\btypename\s+(\w+)", text.code)) or "T"
    pointer = re.compile(rf"\b(?:{_TYPES}|{generic}|T)\s*[*&]\s*(?:const\s+)?(\w+)\b")
    for found in pointer.finditer(text.code):
        declaration = re.split(r"[;(){},<]", text.code[: found.start()])[-1]
        if not re.search(rf"\b{_SPACES}\b", declaration):
            text.fail(
                found.start(),
                f"'{found[1]}' needs an address space (device, constant, threadgroup "
                "or thread), or auto",
            )


def _check_casts(source: _Text, spaces: dict[str, frozenset[str]]) -> None:
    """No cast or pointer may move a buffer into another address space."""
    for pattern in (_CAST, _POINTER):
        for found in pattern.finditer(source.code):
            known = spaces.get(found["operand"])
            if known is not None and known != {found["space"]}:
                source.fail(
                    found.start(), _mismatch(found["operand"], found["space"], known)
                )


def _mismatch(name: str, wanted: str, known: frozenset[str]) -> str:
    if len(known) == 1:
        return f"'{name}' is in {next(iter(known))} memory, not in {wanted}"
    return (
        f"'{name}' is an input: MLX makes it constant when it has fewer than 8 "
        f"elements and device otherwise, so {wanted} does not always fit. Use auto, or "
        "a helper with the pointer's type as template argument"
    )


def _check_helper_calls(
    source: _Text, header: _Text, spaces: dict[str, frozenset[str]]
) -> None:
    """Arguments must fit an overload of the helper for every space they can have."""
    overloads: dict[str, list[list[str]]] = {}
    for function, parameters in _FUNCTION.findall(header.code):
        overloads.setdefault(function, []).append(_split(parameters))
    for function, versions in overloads.items():
        for position, arguments in _calls(source.code, function):
            for index, argument in enumerate(arguments):
                name = re.match(r"[(&\s]*(\w+)", argument)
                known = spaces.get(name[1]) if name else None
                if known is None or not _is_address(argument):
                    continue
                for space in sorted(known):
                    if not any(_accepts(v, index, space) for v in versions):
                        wanted = _space_of(versions[0][index])
                        source.fail(position, _mismatch(name[1], wanted, known))


def _is_address(argument: str) -> bool:
    """Whether the argument is a pointer: `x`, `x + i` or `&x[i]`, not `x[i]`."""
    return argument.strip().startswith("&") or "[" not in argument


def _accepts(parameters: list[str], index: int, space: str) -> bool:
    if index >= len(parameters):
        return False
    return _space_of(parameters[index]) in ("", space)


def _space_of(parameter: str) -> str:
    found = re.search(rf"\b{_SPACES}\b", parameter)
    return found[0] if found else ""


def _calls(code: str, function: str) -> Iterator[tuple[int, list[str]]]:
    for found in re.finditer(rf"\b{function}\s*(?:<[^<>;]*>)?\s*\(", code):
        depth, end = 1, found.end()
        while depth and end < len(code):
            depth += {"(": 1, ")": -1}.get(code[end], 0)
            end += 1
        yield found.start(), _split(code[found.end() : end - 1])


def _split(text: str) -> list[str]:
    """Split at commas outside brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts
