"""Figures of the package's form that are kept down: ``python -m tests.counts``.

Each function takes the package's folder and lists what it counts, one line each.
"""

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "energyflow_mlx"

OBJECTIVES = ("distillation", "reconstruction", "flow", "flow_text", "ab")
MOST_PARAMETERS = 7
LEAST_STRETCH = 6


def modules(package: Path) -> Iterator[tuple[str, ast.Module]]:
    """Path inside the package and syntax tree of every module."""
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package).as_posix()
        yield name, ast.parse(path.read_text(encoding="utf-8"), str(path))


def top_level(package: Path) -> list[str]:
    """Modules and packages at the top of the package."""
    beside = {"__init__", "__main__", "__pycache__", "conf", "kernels"}
    names = {path.stem for path in package.glob("*.py")}
    names |= {path.parent.name for path in package.glob("*/__init__.py")}
    return sorted(names - beside)


def names_of_objectives(package: Path) -> list[str]:
    """Strings equal to an objective's name, where nobody should ask for it."""
    homes = ("training/objectives/", "config/", "conf/")
    found = []
    for module, tree in modules(package):
        if module.startswith(homes):
            continue
        texts = set(_docstrings(tree)) | set(_parts_of_formatted(tree))
        for node in ast.walk(tree):
            is_name = isinstance(node, ast.Constant) and node.value in OBJECTIVES
            if is_name and node not in texts:
                found.append(f"{module}:{node.lineno} {node.value!r}")
    return found


def questions_about_a_lattice(package: Path) -> list[str]:
    """Places that ask whether there is a lattice, instead of an object that knows."""
    homes = ("build/", "training/objectives/")
    found = []
    for module, tree in modules(package):
        if module.startswith(homes):
            continue
        lines = {node.lineno: node for node in _conditions(tree) if _asks(node)}
        found += [f"{module}:{n} {ast.unparse(x)}" for n, x in sorted(lines.items())]
    return found


def long_signatures(package: Path) -> list[str]:
    """Functions with too many parameters; ``self`` and ``cls`` are not counted."""
    found = []
    for module, tree in modules(package):
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                count = _parameters(node)
                if count > MOST_PARAMETERS:
                    found.append(f"{module}:{node.lineno} {node.name}: {count}")
    return found


def repeated_stretches(package: Path) -> list[str]:
    """Pairs of places that share six lines of code or more.

    Blank lines, comments, docstrings and imports do not count, indentation neither. A
    stretch that stands in three places is two or three pairs.
    """
    codes = {name: _code_lines(package / name, tree) for name, tree in modules(package)}
    places: dict[tuple[str, ...], list[tuple[str, int]]] = defaultdict(list)
    for module, code in codes.items():
        for at in range(len(code) - LEAST_STRETCH + 1):
            window = tuple(text for _, text in code[at : at + LEAST_STRETCH])
            places[window].append((module, at))
    found = []
    for known in places.values():
        for index, (one, at) in enumerate(known):
            for other, there in known[index + 1 :]:
                overlap = one == other and there - at < LEAST_STRETCH
                before = at and there and codes[one][at - 1][1]
                goes_on = before and before == codes[other][there - 1][1]
                if not overlap and not goes_on:
                    first, second = codes[one][at][0], codes[other][there][0]
                    found.append(f"{one}:{first} {other}:{second}")
    return sorted(found)


def types_of_a_sentence(package: Path) -> list[str]:
    """Named types that a sentence passes on its way from a file to a loss.

    A sentence is read from a file, held with its vectors, turned into token ids, padded
    into a batch, handed to the device and seen by an objective. Each named type
    (dataclass, NamedTuple) that holds sentences or a batch of them on that way counts.
    """
    defined = {
        node.name
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    }
    passed: dict[str, None] = {}
    for file, function in _WAY_OF_A_SENTENCE:
        tree = ast.parse((package / file).read_text(encoding="utf-8"))
        (returns,) = {
            ast.unparse(node.returns)
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef) and node.name == function
        }
        named = [w for w in re.findall(r"\w+", returns) if w in defined]
        assert named, f"{file}: {function} returns no type of the package"
        passed |= dict.fromkeys(named)
    return list(passed)


# Who hands a sentence on, from a file to a loss.
_WAY_OF_A_SENTENCE = (
    ("data/jsonl.py", "read_jsonl"),
    ("data/dataset.py", "read_many"),
    ("build/data.py", "load_run_data"),
    ("data/batching.py", "batch"),
    ("training/feed.py", "rows_of"),
    ("training/feed.py", "on_device"),
    ("training/objectives/reconstruction.py", "loss"),
)

COUNTS: dict[str, tuple[Callable[[Path], list[str]], int]] = {
    "modules and packages at the top": (top_level, 28),
    "names of objectives asked for elsewhere": (names_of_objectives, 0),
    "questions about a lattice elsewhere": (questions_about_a_lattice, 0),
    "functions with more than seven parameters": (long_signatures, 3),
    "repeated stretches of six lines": (repeated_stretches, 12),
    "types between a file and a loss": (types_of_a_sentence, 7),
}


def _docstrings(tree: ast.AST) -> Iterator[ast.Constant]:
    """Strings that stand alone as a statement."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield node.value


def _parts_of_formatted(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield from ast.walk(node)


def _conditions(tree: ast.AST) -> Iterator[ast.expr]:
    """Comparisons, and everything whose truth is tested."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            yield node
        elif isinstance(node, ast.If | ast.IfExp | ast.While | ast.Assert):
            yield node.test
        elif isinstance(node, ast.BoolOp):
            yield from node.values
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield node.operand
        elif isinstance(node, ast.comprehension):
            yield from node.ifs


def _asks(node: ast.expr) -> bool:
    """Whether a condition is a question about the presence of a lattice."""
    if not isinstance(node, ast.Compare):
        return _is_lattice(node)
    (operator, *_), (right, *_) = node.ops, node.comparators
    if isinstance(operator, ast.Is | ast.IsNot):
        return _is_lattice(node.left) or _is_lattice(right)
    named = isinstance(node.left, ast.Constant) and node.left.value == "lattice"
    return named and isinstance(operator, ast.In | ast.NotIn)


def _is_lattice(node: ast.expr) -> bool:
    name = node.id if isinstance(node, ast.Name) else getattr(node, "attr", "")
    return name.strip("_") == "lattice"


def _parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    arguments = node.args
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args)]
    first_is_owner = bool(names) and names[0] in ("self", "cls")
    further = (*arguments.kwonlyargs, arguments.vararg, arguments.kwarg)
    return len(names) - first_is_owner + sum(a is not None for a in further)


def _code_lines(path: Path, tree: ast.Module) -> list[tuple[int, str]]:
    """Number and bare text of every line that says what to do."""
    skipped: set[int] = set()
    imports = [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)]
    for node in (*imports, *_docstrings(tree)):
        skipped.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
    bare = ((number, line.strip()) for number, line in lines if number not in skipped)
    return [(n, text) for n, text in bare if text and not text.startswith("#")]


def main() -> None:
    """Print every figure with its limit, and what was counted."""
    for title, (count, limit) in COUNTS.items():
        try:
            found = count(PACKAGE)
        except NotImplementedError as error:
            sys.stdout.write(f"{title}: not counted yet ({error})\n")
            continue
        sys.stdout.write(f"{title}: {len(found)} (at most {limit})\n")
        sys.stdout.writelines(f"    {line}\n" for line in found)


if __name__ == "__main__":
    main()
