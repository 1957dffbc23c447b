"""README and docs as pages: short, linked both ways, true to the tree."""

import re

import pytest

from tests.docs.pages import (
    CHECKOUT,
    PAGES,
    README,
    SNIPPETS,
    names_in,
    page_names,
    read,
    section,
    table_rows,
)

LINKING = [
    *page_names(),
    *("benchmarks/README.md", "kernels/README.md", "tests/metal_host/README.md"),
    *("CONTRIBUTING.md", "CHANGELOG.md"),
]


def links(page):
    """Relative targets of a page's links, without anchors."""
    found = re.findall(r"\]\(([^)]+)\)", read(page))
    return [t.partition("#")[0] for t in found if not re.match(r"https?://|#", t)]


def linked_from(page):
    """Pages that a page links, by their names from the checkout."""
    folder = (CHECKOUT / page).parent
    paths = ((folder / target).resolve() for target in links(page))
    return {path.relative_to(CHECKOUT).as_posix() for path in paths} & PAGES.keys()


def test_readme_is_at_most_150_lines():
    assert len(PAGES[README].splitlines()) <= 150


def anchors(page):
    """Names of a page's headings, as GitHub and MkDocs make them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    bare = (re.sub(r"[^\w\- ]", "", title.lower()) for title in titles)
    return {title.replace(" ", "-") for title in bare}


@pytest.mark.parametrize("page", LINKING)
def test_relative_links_resolve(page):
    assert links(page) or page.startswith(("kernels/", "tests/"))
    for target in links(page):
        assert ((CHECKOUT / page).parent / target).exists(), target


@pytest.mark.parametrize("page", LINKING)
def test_links_name_headings_that_are_there(page):
    for target in re.findall(r"\]\((?!https?://)([^)]*#[^)]+)\)", read(page)):
        path, _, anchor = target.partition("#")
        there = (CHECKOUT / page).parent / path if path else CHECKOUT / page
        assert anchor in anchors(there), target


def test_links_lead_from_the_readme_to_every_page():
    found, new = set(), {README}
    while new:
        found |= new
        new = set().union(*map(linked_from, new)) - found
    assert found == set(page_names())


def test_the_index_of_recipes_lists_all_ten():
    recipes = {page for page in page_names() if page.startswith("docs/recipes/")}
    index = "docs/recipes/index.md"
    linked = {page for page in linked_from(index) if page in recipes}
    assert linked == recipes - {index} and len(linked) == 10


def test_the_page_of_examples_lists_and_runs_every_script():
    scripts = {path.name for path in (CHECKOUT / "examples").glob("*.py")}
    assert scripts == set(links("examples/README.md")) & scripts
    run = {s.script for s in SNIPPETS if s.language == "sh" and s.script}
    assert run == {f"examples/{name}" for name in scripts}


@pytest.mark.parametrize("page", [p for p in page_names() if p != README])
def test_a_page_links_back_and_to_another_page(page):
    assert README in linked_from(page)
    assert linked_from(page) - {README}


@pytest.mark.parametrize("page", page_names())
def test_no_line_wraps_in_a_terminal_where_it_need_not(page):
    for number, line in enumerate(PAGES[page].splitlines(), 1):
        if not line.startswith("|"):
            assert len(line) <= 110, f"line {number}: {len(line)} characters"


def test_rooms_of_its_map_are_the_rooms():
    (drawing,) = re.findall(r"```\n(.*?)```", section(README, "Map of rooms"), re.S)
    package = CHECKOUT / "energyflow_mlx"
    lines = drawing.splitlines()
    parts = [re.split(r" {3,}", x.strip())[0] for x in lines if x.startswith("  ")]
    written = [name for part in parts for name in part.split()]
    for name in written:
        assert (package / name).is_dir() or (package / f"{name}.py").is_file(), name
    named = {name.rstrip("/") for name in written}
    there = {p.stem for p in package.glob("*.py")} - {"__init__", "__main__"}
    there |= {p.name for p in package.iterdir() if (p / "__init__.py").is_file()}
    assert named == there
    for name in lines[-1].split():
        assert (CHECKOUT / name).is_dir(), name


def test_results_name_machine_version_command_and_figure():
    for page in (README, "docs/results.md"):
        rows = table_rows(PAGES[page], "what")
        assert "MLX 0.32" in PAGES[page]
        assert all(len(row) == 3 and names_in(row[1]) and row[2] for row in rows)


def test_figures_of_the_readme_are_among_all_results():
    all_rows = table_rows(PAGES["docs/results.md"], "what")
    known = {(command, figure) for _, command, figure in all_rows}
    rows = table_rows(PAGES[README], "what")
    assert len(rows) == 6
    for _, command, figure in rows:
        assert (command, figure) in known, figure


def test_it_is_the_readme_of_the_package():
    assert 'readme = "README.md"' in read("pyproject.toml")
