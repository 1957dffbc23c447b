"""What the package's own text says of its settings and functions: who reads, who calls.

Names stand for things: nothing is imported or run. A setting counts as read when an
attribute of its name is taken of its dataclass, as far as annotations and assignments
tell which dataclass a value is, or else of a value of unknown kind.
"""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from tests.counts import modules

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Settings:
    """The dataclasses of ``config/`` and their fields.

    Attributes:
        fields: By class: its own and inherited field names, and the class that a field
            holds, where it is one of these.
        derived: By class: public methods and properties, and the fields they read.
    """

    def __init__(self, package: Path) -> None:
        trees = [t for name, t in modules(package) if name.startswith("config/")]
        classes = {
            node.name: node
            for tree in trees
            for node in tree.body
            if isinstance(node, ast.ClassDef) and _is_dataclass(node)
        }
        self.fields: dict[str, dict[str, str | None]] = {}
        self.derived: dict[str, dict[str, set[str]]] = {}
        self.families: dict[str, list[str]] = defaultdict(list)
        for name in classes:
            self.fields[name], self.derived[name] = {}, {}
            for ancestor in reversed(list(_lineage(name, classes))):
                self._take(name, classes[ancestor], classes)
                self.families[ancestor].append(name)

    def _take(self, name: str, node: ast.ClassDef, classes: dict) -> None:
        for part in node.body:
            if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
                held = [word for word in _types(part.annotation) if word in classes]
                self.fields[name][part.target.id] = held[0] if held else None
            elif isinstance(part, Function) and not part.name.startswith("_"):
                read = {a.attr for a in ast.walk(part) if isinstance(a, ast.Attribute)}
                self.derived[name][part.name] = read

    def leaves(self, root: str = "Config", where: str = "") -> Iterator[tuple]:
        """Yield dotted key, class and field of every setting under a class."""
        for field, held in self.fields[root].items():
            if held is None:
                yield f"{where}{field}", root, field
                continue
            for family in self.families[held]:
                yield from self.leaves(family, f"{where}{field}.")


class _Reads(ast.NodeVisitor):
    """Attributes taken in one module, each with its dataclass, where that is known."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._kinds: list[dict[str, str]] = [{}]
        self.found: set[tuple[str | None, str]] = set()

    def kind(self, node: ast.expr) -> str | None:
        """The dataclass that an expression holds, as far as the text tells."""
        if isinstance(node, ast.Name):
            kinds = (scope.get(node.id) for scope in reversed(self._kinds))
            return next((k for k in kinds if k), None)
        if isinstance(node, ast.Attribute):
            owner = self.kind(node.value)
            if owner:
                return self._settings.fields[owner].get(node.attr)
            return self._kinds[0].get(f".{node.attr}") or self._of_group(node.attr)
        return None

    def _of_group(self, name: str) -> str | None:
        """``anything.optimizer`` is the group of that name."""
        return self._settings.fields["Config"].get(name)

    def visit_FunctionDef(self, node: Function) -> None:  # noqa: N802
        arguments = node.args
        every = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
        scope = {}
        for argument in every:
            known = [n for n in _types(argument.annotation) if self._is_settings(n)]
            if known:
                scope[argument.arg] = known[0]
        self._kinds.append(scope)
        self.generic_visit(node)
        self._kinds.pop()

    def visit_Assign(self, node: ast.Assign) -> None:  # noqa: N802
        for target in node.targets:
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(target.elts, node.value.elts, strict=False))
            for to, value in pairs:
                self._bind(to, self.kind(value))
        self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:  # noqa: N802
        known = [n for n in _types(node.annotation) if self._is_settings(n)]
        self._bind(node.target, known[0] if known else None)
        self.generic_visit(node)

    def _bind(self, target: ast.expr, kind: str | None) -> None:
        if kind and isinstance(target, ast.Name):
            self._kinds[-1][target.id] = kind
        elif kind and isinstance(target, ast.Attribute):
            self._kinds[0][f".{target.attr}"] = kind  # self.config, in any method

    def visit_Attribute(self, node: ast.Attribute) -> None:  # noqa: N802
        if isinstance(node.ctx, ast.Load):
            self.found.add((self.kind(node.value), node.attr))
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:  # noqa: N802
        by_name = isinstance(node.func, ast.Name) and node.func.id == "getattr"
        if by_name and isinstance(node.args[1], ast.Constant):
            self.found.add((self.kind(node.args[0]), node.args[1].value))
        self.generic_visit(node)

    def _is_settings(self, name: str) -> bool:
        return name in self._settings.fields


def unread_settings(package: Path) -> list[str]:
    """Dotted keys of the configuration that nothing outside ``config/`` reads."""
    settings = Settings(package)
    reads: set[tuple[str | None, str]] = set()
    for module, tree in modules(package):
        if not module.startswith("config/"):
            visitor = _Reads(settings)
            visitor.visit(tree)
            visitor.visit(tree)  # attributes may be read above the line that sets them
            reads |= visitor.found
    return sorted(
        {
            key
            for key, owner, field in settings.leaves()
            if not _is_read(settings, reads, owner, field)
        }
    )


def _is_read(settings: Settings, reads: set, owner: str, field: str) -> bool:
    derived = {n for n, used in settings.derived[owner].items() if field in used}
    wanted = {field} | derived
    # A value known as a family's base class may be of any family.
    kinds = {base for base, members in settings.families.items() if owner in members}
    return any((kind, name) in reads for kind in (*kinds, None) for name in wanted)


def unreached_functions(package: Path, entries: set[str], words: str) -> list[str]:
    """Public functions that no entry point leads to and no words name.

    Args:
        package: The package's folder.
        entries: Modules whose own code is where everything starts.
        words: Text that may name functions: the README.
    """
    homes: dict[str, list[_Place]] = defaultdict(list)
    reached: set[str] = set()
    waiting: list[ast.AST] = []
    for module, tree in modules(package):
        for place in _definitions(module, tree):
            homes[place.name].append(place)
        # Importing a module runs what stands outside its functions.
        waiting += _own_code(tree, everything=module.removesuffix(".py") in entries)
    while waiting:
        for name in _names(waiting.pop()) - reached:
            reached.add(name)
            for place in homes.get(name, []):
                waiting += place.leads_to
    known = reached | set(_identifiers(words))
    return sorted(
        f"{place.module}: {place.title}"
        for places in homes.values()
        for place in places
        if place.is_public and place.name not in known
    )


class _Place:
    """A function, class or method, and the code that using it may run."""

    def __init__(self, module: str, node: Function | ast.ClassDef, owner: str) -> None:
        self.module, self.name = module, node.name
        self.title = f"{owner}.{node.name}" if owner else node.name
        self.is_public = not any(p.startswith("_") for p in self.title.split("."))
        self.leads_to: list[ast.AST] = [node]
        if isinstance(node, ast.ClassDef):
            self.is_public = False  # a class that is only named is of no interest
            runs_unnamed = [
                part
                for part in node.body
                if not isinstance(part, Function) or part.name.startswith("__")
            ]
            self.leads_to = [*runs_unnamed, *node.bases, *node.decorator_list]


def _definitions(module: str, tree: ast.Module) -> Iterator[_Place]:
    for node in tree.body:
        if isinstance(node, Function | ast.ClassDef):
            yield _Place(module, node, "")
        if isinstance(node, ast.ClassDef):
            for part in node.body:
                if isinstance(part, Function):
                    yield _Place(module, part, node.name)


def _own_code(tree: ast.Module, *, everything: bool) -> list[ast.AST]:
    """Statements that run at import; of an entry point also what it offers."""
    plain = ast.Import | ast.ImportFrom
    kept = [n for n in tree.body if not isinstance(n, Function | ast.ClassDef | plain)]
    if not everything:
        # Names listed for others to import are not yet used by anyone.
        return [n for n in kept if not _is_listing(n)]
    return [*kept, *(n for n in tree.body if isinstance(n, plain))]


def _is_listing(node: ast.stmt) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else []
    return any(isinstance(t, ast.Name) and t.id == "__all__" for t in targets)


def _names(node: ast.AST | None) -> set[str]:
    """Every identifier in a piece of code; quoted annotations and listings too."""
    found: set[str] = set()
    for part in ast.walk(node) if node is not None else ():
        if isinstance(part, ast.Name):
            found.add(part.id)
        elif isinstance(part, ast.Attribute):
            found.add(part.attr)
        elif isinstance(part, ast.alias):
            found.add(part.name.rpartition(".")[2])
        elif isinstance(part, ast.Constant) and isinstance(part.value, str):
            if part.value.isidentifier():
                found.add(part.value)
    return found


def _types(annotation: ast.expr | None) -> set[str]:
    """Names in an annotation, quoted or not."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return _names(ast.parse(annotation.value, mode="eval"))
    return _names(annotation)


def _identifiers(words: str) -> Iterator[str]:
    cleaned = "".join(c if c.isidentifier() or c.isdigit() else " " for c in words)
    return iter(cleaned.split())


def _is_dataclass(node: ast.ClassDef) -> bool:
    return any("dataclass" in _names(decorator) for decorator in node.decorator_list)


def _lineage(name: str, classes: dict[str, ast.ClassDef]) -> Iterator[str]:
    """The class and its ancestors among these classes, nearest first."""
    yield name
    for base in classes[name].bases:
        if isinstance(base, ast.Name) and base.id in classes:
            yield from _lineage(base.id, classes)
