"""What someone sends you is refused in one line: no hang, no crash, no memory.

Results that a run can give again block nothing: they are left out, with one warning.
"""

import shutil

import pytest

from tests.faults.attacks import FILES, attacks
from tests.faults.opened import Opener
from tests.faults.sent import send

# Python and numpy take some memory for a file of any size.
_SLACK = 96 << 20
_MOST_SECONDS = 10.0


@pytest.fixture(scope="module")
def sent(tmp_path_factory):
    """An honest folder of everything, which no test changes."""
    return send(tmp_path_factory.mktemp("hostile") / "honest")


@pytest.fixture(scope="module")
def opener():
    with Opener() as found:
        yield found


@pytest.fixture
def spoilt(sent, tmp_path):
    """Return a function that spoils a copy of what a reader is given."""

    def spoil(given, file, change):
        whole = given.split("/")[0]
        for path in sent.glob(f"{whole}*"):
            copy = shutil.copytree if path.is_dir() else shutil.copy
            copy(path, tmp_path / path.name)
        change(tmp_path / file)
        return tmp_path / given

    return spoil


@pytest.mark.parametrize("file", FILES)
def test_the_honest_file_is_read(sent, opener, file):
    reader, given = FILES[file]
    answer = opener.open(reader, sent / given)
    assert answer.status == "read" and answer.warnings == [], answer


@pytest.mark.parametrize(
    ("reader", "given", "file", "change"),
    [pytest.param(*attack, id=name) for name, *attack in attacks(left_out=False)],
)
def test_what_was_spoilt_is_refused_in_one_line(
    spoilt, opener, reader, given, file, change
):
    answer = opener.open(reader, spoilt(given, file, change))
    assert answer.status == "refused", answer
    assert answer.message and "\n" not in answer.message, answer
    assert len(answer.message) < 600, answer
    _require_bounds(answer)


@pytest.mark.parametrize(
    ("reader", "given", "file", "change"),
    [pytest.param(*attack, id=name) for name, *attack in attacks(left_out=True)],
)
def test_a_spoilt_result_is_left_out_with_one_warning(
    spoilt, opener, reader, given, file, change
):
    answer = opener.open(reader, spoilt(given, file, change))
    assert answer.status == "read", answer
    (line,) = answer.warnings
    assert "\n" not in line and len(line) < 600, answer
    is_checkpoint = file.startswith("run/checkpoints/")
    assert ("run/checkpoints/" if is_checkpoint else file) in line, answer
    _require_bounds(answer)


def _require_bounds(answer):
    assert answer.grown < _SLACK, answer
    assert answer.seconds < _MOST_SECONDS, answer
