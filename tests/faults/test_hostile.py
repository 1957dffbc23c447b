"""What someone sends you is refused in one line: no hang, no crash, no memory."""

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
    assert answer.status == "read", answer


@pytest.mark.parametrize(
    ("reader", "given", "file", "change"),
    [pytest.param(*attack, id=name) for name, *attack in attacks()],
)
def test_what_was_spoilt_is_refused_in_one_line(
    spoilt, opener, reader, given, file, change
):
    answer = opener.open(reader, spoilt(given, file, change))
    assert answer.status == "refused", answer
    assert answer.message and "\n" not in answer.message, answer
    assert len(answer.message) < 600, answer
    assert answer.grown < _SLACK, answer
    assert answer.seconds < _MOST_SECONDS, answer
