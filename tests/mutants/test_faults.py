"""The lists of planted faults fit the tree, and their runner tells outcomes apart."""

import collections
import subprocess

import pytest

from tests.mutants.fault import Fault, load, rooms
from tests.mutants.run import copy_tree, judge, judge_all

EVERY = load()


@pytest.mark.parametrize("room", rooms())
def test_every_fault_can_be_planted(checkout, room):
    """Its text occurs once in its file: lists follow the code, or they rot."""
    wrong = []
    for fault in load([room]):
        try:
            fault.planted_in((checkout / fault.file).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            wrong.append(f"{fault.name}: {error}")
    assert not wrong, "\n".join(wrong)


def test_every_fault_names_tests_that_are_there(checkout):
    for fault in EVERY:
        files = [x for x in fault.tests if x.startswith("tests/")]
        assert files, fault.name
        for name in files:
            assert (checkout / name.partition("::")[0]).is_file(), fault.name


def test_every_fault_has_a_name_of_its_own():
    counts = collections.Counter((fault.room, fault.name) for fault in EVERY)
    assert [name for name, count in counts.items() if count > 1] == []


def test_a_room_without_a_list_is_refused():
    with pytest.raises(ValueError, match="no list of faults for attic"):
        load(["attic"])


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [("y", "z", "occurs 0 times"), ("x", "y", "occurs 2 times"), ("1", "1", "nothing")],
)
def test_a_fault_that_does_not_fit_is_refused(old, new, reason):
    fault = Fault("room", "name", "a.py", old, new, ("tests/test_a.py",))
    with pytest.raises(ValueError, match=reason):
        fault.planted_in("x = x + 1")


SUM = "def total(values):\n    return sum(values) + 0\n"
TEST = "import adder\n\n\ndef test_sum():\n    assert adder.total([1, 2]) == 3\n"


@pytest.fixture
def tree(tmp_path):
    """A clone with one module and its test."""
    for name, text in {"adder.py": SUM, "tests/test_adder.py": TEST}.items():
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    done = subprocess.run(["git", "init", "-q", tmp_path / "tree"], check=False)
    if done.returncode:
        pytest.skip("needs git")
    return tmp_path / "tree"


def adder_fault(new="sum(values) + 1", old="sum(values) + 0", **changes):
    entry = {"name": "one too many", "file": "adder.py", "old": old, "new": new}
    return Fault(room="adder", tests=("tests/test_adder.py",), **entry | changes)


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        (adder_fault(), "killed"),
        (adder_fault("0 + sum(values)"), "survived"),
        (adder_fault(old="product(values)"), "invalid"),
        (adder_fault("sum(values) +"), "invalid"),
        (adder_fault(file="absent.py"), "invalid"),
        (adder_fault("0 + sum(values)", equivalent="order of a sum"), "equivalent"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_outcomes_are_told_apart_and_the_copy_is_restored(
    tree, tmp_path, fault, outcome
):
    copy = tmp_path / "copy"
    copy_tree(tree, copy)
    verdict = judge(copy, fault)
    assert verdict.outcome == outcome, verdict.detail
    assert verdict.is_good == (outcome in ("killed", "equivalent"))
    assert (copy / "adder.py").read_text(encoding="utf-8") == SUM
    assert (tree / "adder.py").read_text(encoding="utf-8") == SUM


def test_tests_that_fail_without_a_fault_kill_nothing(tree):
    (tree / "adder.py").write_text(SUM.replace("0", "5"), encoding="utf-8")
    fault = adder_fault("sum(values) + 1", "sum(values) + 5")
    (verdict,) = judge_all(tree, [fault])
    assert verdict.outcome == "invalid"
    assert "without it: FAILED tests/test_adder.py::test_sum" in verdict.detail


def test_two_faults_are_judged_in_their_order(tree):
    faults = [adder_fault(), adder_fault("0 + sum(values)", name="none")]
    assert [v.outcome for v in judge_all(tree, faults)] == ["killed", "survived"]
