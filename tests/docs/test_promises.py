"""The table of promises names tests that are there, and every file of faults."""

import ast
import re

import pytest

_NAMED = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


@pytest.fixture(scope="module")
def rows(checkout):
    """Cells of each line of the table."""
    text = (checkout / "docs/promises.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_every_promise_says_fault_behavior_and_test(rows):
    wrong = [row for row in rows if len(row) != 3 or not all(row)]
    assert not wrong
    assert not [row for row in rows if not _NAMED.search(row[2])]


def test_every_test_of_a_promise_is_there(rows, checkout):
    missing = []
    for row in rows:
        for file, name in _NAMED.findall(row[2]):
            path = checkout / file
            if not path.is_file() or (name and name not in functions_of(path)):
                missing.append(f"{file}::{name}")
    assert not missing


def functions_of(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_file_of_faults_holds_a_promise(rows, checkout):
    named = {file for row in rows for file, _ in _NAMED.findall(row[2])}
    files = (checkout / "tests/faults").glob("test_*.py")
    assert {str(path.relative_to(checkout)) for path in files} <= named
