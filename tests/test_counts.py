"""Figures of the package's form stay within their limits, and are counted right."""

import pytest

from tests import counts


@pytest.mark.parametrize("title", counts.COUNTS)
def test_count_is_within_its_limit(title):
    count, limit = counts.COUNTS[title]
    found = count(counts.PACKAGE)
    assert len(found) <= limit, "\n".join(found)


def test_top_level_is_modules_and_packages(package):
    folder = package(train="", build__model="")
    assert counts.top_level(folder) == ["train"]
    for name in ("__init__.py", "build/__init__.py", "conf/__init__.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    assert counts.top_level(folder) == ["build", "train"]


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("if task == 'flow': pass", 1),
        ("x = {'ab': 1, 'distillation': 2}", 2),
        ("'flow'", 0),
        ("def f():\n    'flow'\n    return 'flow'", 1),
        ("x = f'{y}flow'", 0),
        ("x = 'overflow'", 0),
    ],
)
def test_names_of_objectives_are_found_in_code_alone(package, source, count):
    assert len(counts.names_of_objectives(package(loop=source))) == count


def test_names_of_objectives_are_at_home_in_three_rooms(package):
    text = "x = 'flow'"
    folder = package(training__objectives__flow=text, config__root=text, conf__x=text)
    assert counts.names_of_objectives(folder) == []


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("if config.lattice is None: pass", 1),
        ("x = self.lattice is not None", 1),
        ("if lattice: pass", 1),
        ("x = 1 if model.lattice else 2", 1),
        ("assert not self._lattice", 1),
        ("x = lattice and 3", 1),
        ("x = 'lattice' in self", 1),
        ("x = 'lattice' not in parts", 1),
        ("x = [y for y in ys if y.lattice]", 1),
        ("x = lattice.width", 0),
        ("if lattice.width: pass", 0),
        ("if f(lattice): pass", 0),
        ("if width is None: pass", 0),
        ("x = 'lattice' == y", 0),
    ],
)
def test_questions_about_a_lattice_are_found_in_every_form(package, source, count):
    assert len(counts.questions_about_a_lattice(package(loop=source))) == count


def test_questions_about_a_lattice_are_allowed_where_it_is_built(package):
    text = "if lattice is None: pass"
    folder = package(build__model=text, training__objectives__flow=text)
    assert counts.questions_about_a_lattice(folder) == []


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("def f(a, b, c, d, e, g, h): pass", 0),
        ("def f(a, b, c, d, e, g, h, i): pass", 1),
        ("def f(a, b, /, c, d, *, e, g, h, i): pass", 1),
        ("def f(a, b, c, d, e, g, *h, **i): pass", 1),
        ("class C:\n    def f(self, a, b, c, d, e, g, h): pass", 0),
        ("class C:\n    def f(self, a, b, c, d, e, g, h, i): pass", 1),
        ("class C:\n    def f(cls, a, b, c, d, e, g, h): pass", 0),
    ],
)
def test_parameters_are_counted_without_the_owner(package, source, count):
    assert len(counts.long_signatures(package(loop=source))) == count


LINES = [f"x{number} = {number}" for number in range(9)]


def test_a_repeated_stretch_is_one_pair_whatever_its_length(package):
    one = "\n".join([*LINES, "a = 1"])
    inside = "\n".join(["def f():", *[f"    {line}" for line in LINES]])
    assert counts.repeated_stretches(package(one=one, two=inside)) == [
        "one.py:1 two.py:2"
    ]


def test_five_equal_lines_are_no_stretch(package):
    five, six = "\n".join(LINES[:5]), "\n".join(LINES[:6])
    assert counts.repeated_stretches(package(one=five, two=six)) == []


def test_a_stretch_repeats_within_one_file(package):
    twice = "\n".join([*LINES[:6], "between = 0", *LINES[:6]])
    assert counts.repeated_stretches(package(one=twice)) == ["one.py:1 one.py:8"]


def test_three_places_are_three_pairs(package):
    text = "\n".join(LINES)
    assert len(counts.repeated_stretches(package(one=text, two=text, three=text))) == 3


def test_imports_docstrings_comments_and_blank_lines_are_no_code(package):
    listed = "\n".join(f"    name{number}," for number in range(9))
    text = f'"""{listed}"""\nfrom a import (\n{listed}\n)\n' + "# word\n\n" * 9
    assert counts.repeated_stretches(package(one=text, two=text)) == []


def test_an_equal_line_repeated_many_times_does_not_pair_with_itself(package):
    assert counts.repeated_stretches(package(one="x()\n" * 11)) == []
