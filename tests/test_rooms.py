"""House rules that a reader relies on: who imports whom, who evaluates, how long."""

import ast
import itertools
import re
import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
PACKAGE = CHECKOUT / "energyflow_mlx"

ENTRY_POINTS = {
    *("__init__", "train", "evaluate", "encode", "decode", "prepare", "plot"),
    *("doctor", "sweep_report", "export", "profile", "__main__"),
}
# Imports point down this list only, and never sideways between rooms of one rung.
# A room is a module or a package; a module named here leaves its package's rung.
LADDER = (
    ENTRY_POINTS,
    {"build"},
    {"training"},
    {"evaluation.held_out", "evaluation.tracing"},
    {"inference"},
    {"build.model"},
    {"model"},
    {"text", "lattice", "teacher"},
    {"nn"},
    {"ops"},
)
# Rooms beside the ladder, and all that each may import.
LEAVES = {
    "errors": set(),
    "runtime": {"errors"},
    "runtime.diagnosis": {"runtime", "errors", "teacher"},
    "runtime.kernel_check": {"ops"},
    "config": {"errors", "runtime"},
    "config.command_line": {"errors", "config", "runtime"},
    "config.store": {"errors", "config"},
    "config.train_line": {"errors", "config", "config.store"},
    "runs": {"runtime", "errors", "config"},
    "display": {"errors"},
    "readback": {"errors"},
    "data": {"runtime", "errors"},
    "evaluation": {"errors", "data"},
    "plots": {"runs", "evaluation", "runtime", "errors"},
}
# What only an entry point may look at, and what mathematics may know of beside itself.
FOR_ENTRY_POINTS = {
    *("config.command_line", "config.store", "config.train_line"),
    *("runtime.diagnosis", "runtime.kernel_check", "plots"),
}
FOR_LAYERS = {"errors", "runtime"}
PLACES = {name for rung in LADDER for name in rung} | LEAVES.keys()

MAX_FILE_LINES = 400
MAX_BODY_LINES = 60


def sources(room):
    single = PACKAGE / f"{room.replace('.', '/')}.py"
    return [single] if single.is_file() else sorted((PACKAGE / room).rglob("*.py"))


def place_of(name):
    """Room of a dotted module name inside the package: the longest one listed."""
    parts = name.split(".")
    prefixes = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
    return next((p for p in prefixes if p in PLACES), parts[0])


def rooms():
    names = {p.stem for p in PACKAGE.glob("*.py")}
    names |= {p.name for p in PACKAGE.iterdir() if (p / "__init__.py").is_file()}
    return sorted(names)


def parse(path):
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported_rooms(tree):
    """Yield (room, line) for each import from the package, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            top, _, inside = name.partition(".")
            if top == PACKAGE.name and inside:
                yield place_of(inside), node.lineno


def home_of(path):
    """Room of a source file."""
    return place_of(".".join(path.relative_to(PACKAGE).with_suffix("").parts))


def rung(room):
    return next((i for i, names in enumerate(LADDER) if room in names), None)


def may_import(room, other):
    if room == other:
        return True
    if room in LEAVES:
        return other in LEAVES[room]
    if other not in LEAVES:
        return rung(other) is not None and rung(room) < rung(other)
    if room in {"nn", "ops"}:
        return other in FOR_LAYERS
    return room in ENTRY_POINTS or other not in FOR_ENTRY_POINTS


@pytest.mark.parametrize("room", rooms())
def test_imports_point_one_way(room):
    assert room in LEAVES or rung(room) is not None, (
        f"{room} is a new room: give it a place in this file's LADDER or LEAVES"
    )
    wrong = [
        f"{path.relative_to(CHECKOUT)}:{line} imports {other}"
        for path in sources(room)
        for other, line in imported_rooms(parse(path))
        if not may_import(home_of(path), other)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from energyflow_mlx.text.encoder import TCNEncoder", ["text"]),
        ("from energyflow_mlx import runs, data as _d", ["runs", "data"]),
        ("from energyflow_mlx.config import store", ["config.store"]),
        ("import energyflow_mlx.nn.tcn as t", ["nn"]),
        ("def f():\n    from energyflow_mlx.model import EnergyFlow", ["model"]),
        ("import energyflow_mlx\nimport mlx.core as mx", []),
    ],
)
def test_scan_sees_every_form_of_import(source, found):
    assert [room for room, _ in imported_rooms(ast.parse(source))] == found


@pytest.mark.parametrize(
    ("room", "other", "allowed"),
    [
        ("train", "training", True),
        ("training", "train", False),
        ("model", "text", True),
        ("text", "model", False),
        ("text", "lattice", False),
        ("nn", "ops", True),
        ("ops", "nn", False),
        ("nn", "config", False),
        ("data", "text", False),
        ("readback", "model", False),
        ("training", "readback", True),
        ("training", "plots", False),
        ("evaluation.tracing", "inference", True),
        ("evaluation.tracing", "training", False),
        ("inference", "build", False),
        ("inference", "build.model", True),
        ("build.model", "inference", False),
        ("training", "build", False),
    ],
)
def test_rule_itself_points_one_way(room, other, allowed):
    assert may_import(room, other) is allowed


def evaluations(tree):
    """Yield the line of each call that computes a lazy array and brings it back."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "mlx.core":
            if {"eval", "async_eval"} & {alias.name for alias in node.names}:
                yield node.lineno
        if not isinstance(node, ast.Attribute):
            continue
        of_mlx = isinstance(node.value, ast.Name) and node.value.id == "mx"
        if of_mlx and node.attr in {"eval", "async_eval"}:
            yield node.lineno
        if not of_mlx and node.attr in {"item", "tolist"}:
            yield node.lineno


def imports_mlx(tree):
    return any(
        name.split(".")[0] == "mlx"
        for node in ast.walk(tree)
        for name in _imported_names(node)
    )


TRAINING_PATH = ("training", "model", "text", "lattice", "nn", "ops")
# Generation chooses a token, looks at it and goes on; training never comes here.
GENERATION = {
    PACKAGE / "text" / "generation" / name for name in ("generate.py", "beam.py")
}


@pytest.mark.parametrize("room", [r for r in TRAINING_PATH if sources(r)])
def test_readback_alone_evaluates_in_the_training_path(room):
    wrong = [
        f"{path.relative_to(CHECKOUT)}:{line}"
        for path in sources(room)
        if path not in GENERATION and imports_mlx(parse(path))
        for line in evaluations(parse(path))
    ]
    assert not wrong, "hand it to readback.py: " + ", ".join(wrong)


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("mx.eval(x)", 1),
        ("mx.async_eval(x)", 1),
        ("loss.item()", 1),
        ("x[0].tolist()", 1),
        ("read = loss.item", 1),
        ("from mlx.core import eval", 1),
        ("model.eval()", 0),
        ("d.items()", 0),
    ],
)
def test_scan_sees_every_form_of_evaluation(source, count):
    assert len(list(evaluations(ast.parse(source)))) == count


def test_files_and_functions_stay_short():
    long = []
    for path in PACKAGE.rglob("*.py"):
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines >= MAX_FILE_LINES:
            long.append(f"{path.relative_to(CHECKOUT)}: {lines} lines")
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                size = body[-1].end_lineno - body[0].lineno + 1 if body else 0
                if size > MAX_BODY_LINES:
                    long.append(f"{path.name}:{node.lineno} {node.name}: {size} lines")
    assert not long, "\n".join(long)


# A thread has no caller to raise to: it hands every error to its consumer.
THREADS = {PACKAGE / "data" / "prefetch.py"}


def test_errors_are_never_caught_wholesale():
    wrong = []
    for path in set(PACKAGE.rglob("*.py")) - THREADS:
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.ExceptHandler):
                names = {n.id for n in ast.walk(node.type or node) if _is_name(n)}
                if node.type is None or names & {"Exception", "BaseException"}:
                    wrong.append(f"{path.relative_to(CHECKOUT)}:{node.lineno}")
    assert not wrong, "name the error: " + ", ".join(wrong)


def _is_name(node):
    return isinstance(node, ast.Name)


def test_benchmarks_import_the_package_before_mlx():
    """Else MLX is already bound to the reference BLAS, and the figures are wrong."""
    scripts = {path.stem: path for path in (CHECKOUT / "benchmarks").rglob("*.py")}
    wrong = [name for name in scripts if _first_of(name, scripts) == "mlx"]
    assert not wrong, "import energyflow_mlx first in " + ", ".join(sorted(wrong))


def _first_of(script, scripts):
    """Say which of the two a script imports first, itself or by another script."""
    for node in parse(scripts[script]).body:
        for name in _imported_names(node):
            top = name.split(".")[0]
            found = _first_of(top, scripts) if top in scripts else top
            if found in {"mlx", "energyflow_mlx"}:
                return found
    return None


def _imported_names(node):
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [str(node.module)] if isinstance(node, ast.ImportFrom) else []


def tracked_files():
    """Everything that is or would be committed; needs git and a clone."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("git is not installed")
    if done.returncode != 0:
        pytest.skip("not a git clone")
    files = [CHECKOUT / line for line in done.stdout.splitlines()]
    return [path for path in files if path.is_file()]


def test_no_machine_paths_or_hosts_in_the_tree():
    # Assembled, so that this file does not find itself.
    folders = ("work", "root", "tmp", "home", "Users")
    hosts = (".".join(("pypi", "org")), ".".join(("files", "pythonhosted", "org")))
    pattern = re.compile(
        "|".join(
            itertools.chain(
                (rf"(?<![\w.$}}/~]){re.escape('/' + name + '/')}" for name in folders),
                map(re.escape, hosts),
            )
        )
    )
    wrong = []
    for path in tracked_files():
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue  # a binary file: golden arrays
        wrong += [
            f"{path.relative_to(CHECKOUT)}:{number}: {line.strip()[:60]}"
            for number, line in enumerate(lines, 1)
            if pattern.search(line)
        ]
    assert not wrong, "\n".join(wrong)


def test_top_level_holds_what_it_should_and_no_more():
    top = {path.relative_to(CHECKOUT).parts[0] for path in tracked_files()}
    visible = {name for name in top if not name.startswith(".")}
    assert visible <= {
        *("pyproject.toml", "Makefile", "mkdocs.yml", "LICENSE"),
        *("README.md", "CHANGELOG.md", "CONTRIBUTING.md"),
        *("energyflow_mlx", "conf", "kernels", "tests", "benchmarks", "docs"),
        "examples",
    }
