"""Wrong commands: one line that names the fault, status 2, and nothing left behind."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import CHECKOUT
from tests.processes import DO_NOT_COMPILE

TABLE = Path(__file__).with_suffix(".txt").with_stem("wrong_commands")
# What a line of text, an argument of a process, or a terminal cannot show.
MEANT = {"{LF}": "\n", "{NUL}": "\0", "{FF}": "\udcff"}


def cases():
    """What is typed and words of its one line: of every run of the tests, and slow."""
    always, slow = TABLE.read_text(encoding="utf-8").split("\n# slow")
    for text, marks in ((always, ()), (slow, (pytest.mark.slow,))):
        lines = [line for line in text.split("\n")[1:] if line and line[0] != "#"]
        for line in lines:
            typed, named = map(str.strip, line.split(" | "))
            yield pytest.param(typed, named, marks=marks, id=typed)


CASES = list(cases())


def words(typed):
    """What the process gets as its arguments."""
    for shown, meant in MEANT.items():
        typed = typed.replace(shown, meant)
    return shlex.split(typed)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory, request):
    """What became of every command of the table, all called in one process."""
    with_slow = request.config.getoption("--run-slow")
    called = [case.values[0] for case in CASES if with_slow or not case.marks]
    folder = tmp_path_factory.mktemp("wrong")
    done = subprocess.run(
        [sys.executable, "-m", "tests.wrong_commands", folder],
        cwd=CHECKOUT,
        env=os.environ | DO_NOT_COMPILE,  # runs of one update, to read afterwards
        input=json.dumps([words(typed) for typed in called]),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(called, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize(("typed", "named"), CASES)
def test_a_wrong_command_is_one_line_with_status_2_and_leaves_nothing(
    outcomes, typed, named
):
    outcome = outcomes[typed]
    assert outcome["status"] == 2, outcome["err"]
    (line,) = outcome["err"].splitlines()
    assert line.startswith("error: ["), line
    assert named in line
    assert len(line) < 600, line
    assert not outcome["changed"]
