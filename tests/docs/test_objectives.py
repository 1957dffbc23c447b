"""``objectives.md`` has all objectives, what they measure, and an example that runs."""

import re

import pytest

from energyflow_mlx.training.objectives import Objective
from tests.docs.pages import PAGES, SNIPPETS, names_in, read

PAGE = "docs/objectives.md"
OBJECTIVES = sorted(Objective.registered.items())


def part(name):
    """Text below the heading of an objective."""
    found = re.search(rf"^### {name}\b.*?\n(.*?)(?=^##|\Z)", PAGES[PAGE], re.M | re.S)
    assert found, f"no section for {name}"
    return found[1]


@pytest.mark.parametrize(("name", "kind"), OBJECTIVES, ids=[n for n, _ in OBJECTIVES])
def test_an_objective_has_its_formula_and_its_measures(name, kind):
    text = part(name)
    assert "```" in text
    measured = re.search(r"measures\s+([^.]*)\.", text)[1]
    assert names_in(measured) == list(kind.measures)


def test_no_section_is_of_an_objective_that_is_not_there():
    titles = re.findall(r"^### (\w+)", PAGES[PAGE], re.M)
    assert sorted(titles) == [name for name, _ in OBJECTIVES]


def bare(text):
    return [line.strip() for line in text.splitlines() if line.strip()]


def test_its_example_is_the_one_that_a_test_runs():
    source = "\n".join(bare(read("tests/training/test_new_objective.py")))
    (example,) = (s.text for s in SNIPPETS if s.page == PAGE and s.language == "python")
    body = example[example.index("@objective_settings") :]
    assert "\n".join(bare(body)) in source
    (experiment,) = re.findall(r"```yaml\n(.*?)```", PAGES[PAGE], re.S)
    assert "\n".join(bare(experiment)) in source
