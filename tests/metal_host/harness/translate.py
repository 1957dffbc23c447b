"""Turns kernel text into a C++ translation unit: as little as possible is changed."""

import re
from dataclasses import dataclass, field

from tests.metal_host.harness.faults import CompileFault

_FUNCTION_HEAD = re.compile(r"[^;{}#\n][^;{}#]*\)\s*\{")
_ADDRESS_SPACE = re.compile(r"\b(?:device|constant|threadgroup|thread)\b")
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
# threadgroup T a[N], b;   with T a plain or template type, optionally const
_GROUP_DECLARATION = re.compile(
    r"\bthreadgroup\s+"
    r"(?P<type>(?:(?:const|unsigned|signed)\s+)*(?:\w+::)*\w+(?:<[^<>;]*(?:<[^<>;]*>[^<>;]*)*>)?)\s+"
    r"(?P<names>\w+\s*(?:\[[^\];]*\]\s*)*(?:,\s*\w+\s*(?:\[[^\];]*\]\s*)*)*);"
)


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel function.

    Attributes:
        name: As in the text.
        buffer: C++ type behind the pointer that the host passes; None for a value
            computed from the thread's position.
        expression: Host C++ for the argument; ``{i}`` is the buffer's position.
    """

    name: str
    buffer: str | None
    expression: str


@dataclass(frozen=True)
class KernelText:
    """A kernel as the host compiles it.

    Attributes:
        name: Kernel name, for messages.
        language: "metal" or "cuda".
        header: The author's header text.
        source: The author's body text.
        before: Text between header and body (template line and signature).
        after: What closes the body and everything around it.
        function: Name of the kernel function, with template arguments.
        parameters: In the order of the signature.
    """

    name: str
    language: str
    header: str
    source: str
    before: str
    after: str
    function: str
    parameters: tuple[Parameter, ...]
    compile_flags: tuple[str, ...] = field(default=())

    @property
    def buffer_names(self) -> list[str]:
        """Names of the parameters that are buffers, in order."""
        return [p.name for p in self.parameters if p.buffer is not None]


def blank_comments(text: str) -> str:
    """The text with comments turned into spaces; lines keep their numbers."""
    return _COMMENT.sub(lambda m: re.sub(r"[^\n]", " ", m.group()), text)


def group_variables_as_references(name: str, text: str) -> str:
    """Make each threadgroup variable a reference into memory shared by the group.

    A C++ local variable belongs to one thread; the executor hands every thread of the
    group the same memory instead. Variables are numbered, which is their identity.
    """
    count = 0

    def rewrite(match: re.Match[str]) -> str:
        nonlocal count
        declared = []
        for declarator in re.split(r",(?![^\[]*\])", match["names"]):
            parts = re.fullmatch(r"\s*(\w+)\s*(.*)", declarator, re.DOTALL)
            variable, dimensions = parts.groups()
            alias = f"host_group_type_{count}"
            declared.append(
                f"typedef {match['type']} {alias} {dimensions.strip()}; "
                f"auto& {variable} = "
                f'host::group_variable<{alias}>({count}, "{variable}");'
            )
            count += 1
        return " ".join(declared)

    rewritten = _GROUP_DECLARATION.sub(rewrite, blank_comments(text))
    for rest in re.finditer(r"\bthreadgroup\b([^;,(){}=]*)", rewritten):
        if "*" not in rest[1] and "&" not in rest[1]:
            # Left alone it would silently become a variable of each thread.
            raise CompileFault(
                name, f"`{rest[0].strip()}` is no declaration known here"
            )
    return rewritten


def without_address_space_overloads(header: str) -> str:
    """Keep one of several functions that differ in address spaces only.

    Metal tells them apart; on the host they would be the same function twice. The text
    of the others is compared, so each of them is still what the kept one is.
    """
    code = blank_comments(header)
    seen: set[str] = set()
    at = 0
    while found := _FUNCTION_HEAD.search(code, at):
        at = _closing_brace(code, found.end()) + 1
        function = code[found.start() : at]
        plain = re.sub(r"\s+", " ", _ADDRESS_SPACE.sub("", function)).strip()
        if plain in seen:
            blank = re.sub(r"[^\n]", " ", function)
            code = code[: found.start()] + blank + code[at:]
        seen.add(plain)
    return code


def _closing_brace(code: str, after: int) -> int:
    depth, at = 1, after
    while depth and at < len(code):
        depth += {"{": 1, "}": -1}.get(code[at], 0)
        at += 1
    return at - 1


def translation_unit(text: KernelText) -> str:
    """The kernel and the entry point the executor calls; headers are not included."""
    if text.language == "metal":
        header = without_address_space_overloads(text.header)
        body = group_variables_as_references(text.name, text.source)
    else:
        header, body = blank_comments(text.header), _cuda_shared_as_references(text)
    arguments, buffers = [], 0
    for parameter in text.parameters:
        arguments.append(parameter.expression.format(i=buffers))
        buffers += parameter.buffer is not None
    return "\n".join(
        [
            f'#line 1 "header"\n{header}',
            f'#line 1 "signature"\n{text.before}',
            f'#line 1 "source"\n{body}',
            f'#line 1 "entry"\n{text.after}',
            'extern "C" HOST_UNCHECKED void host_entry(void** buffers, '
            "const HostThread* thread_index) {",
            f"  {text.function}({', '.join(arguments)});",
            "}\n",
        ]
    )


def _cuda_shared_as_references(text: KernelText) -> str:
    body = blank_comments(text.source)
    dynamic = re.compile(r"\bextern\s+__shared__\s+([\w ]+?)\s+(\w+)\s*\[\s*\]\s*;")
    body = dynamic.sub(
        r"\1* \2 = (\1*)host_dynamic_group_memory(sizeof(\1), "
        r'"\2");',
        body,
    )
    body = re.sub(r"\b__shared__\b", "threadgroup", body)
    return group_variables_as_references(text.name, body)
