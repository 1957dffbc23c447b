"""The site of the pages and docstrings: every page has a place, nothing is fetched."""

import os
import re
import runpy
import subprocess
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import yaml

from tests.docs.pages import CHECKOUT, page_names, read

SITE = runpy.run_path(str(CHECKOUT / "docs" / "site_pages.py"))
# What a page loads by itself, and from where.
LOADED = r"""<(?:script|img|iframe|link)\b[^>]*?\b(?:src|href)=["']?([^"' >]+)"""


def places(nav):
    """Every page of the navigation, in order."""
    for entry in nav:
        if isinstance(entry, str):
            yield entry
        else:
            for section in entry.values():
                yield from places(section)


def test_navigation_has_every_page_once():
    nav = list(places(yaml.safe_load(read("mkdocs.yml"))["nav"]))
    pages = {SITE["site_path"](page) for page in page_names()}
    pages |= {*SITE["MOVED"].values()}
    rooms = {f"api/{name}.md" for name in SITE["api_pages"]()}
    assert sorted(nav) == sorted(pages | rooms)


def test_pages_of_the_rooms_are_the_rooms_and_modules():
    package = CHECKOUT / "energyflow_mlx"
    pages = SITE["api_pages"]()
    rooms = {path.parent.name for path in package.glob("*/__init__.py")}
    assert pages.keys() == rooms | {"index"}
    assert "::: energyflow_mlx.train\n" in pages["index"]
    assert all(f"::: energyflow_mlx.{room}\n" in pages[room] for room in rooms)


@pytest.mark.parametrize(
    ("place", "link", "turned"),
    [
        ("runs.md", "../README.md#map-of-rooms", "index.md#map-of-rooms"),
        ("runs.md", "formats.md", "formats.md"),
        ("recipes/search.md", "../runs.md", "../runs.md"),
        ("recipes/search.md", "../../README.md", "../index.md"),
        ("recipes/search.md", "../../examples/a.py", "../files/examples/a.py.txt"),
        ("index.md", "docs/runs.md", "runs.md"),
        ("benchmarks.md", "../docs/results.md", "results.md"),
        ("benchmarks.md", "results/a.png", "files/benchmarks/results/a.png"),
        ("runs.md", "https://hydra.cc", "https://hydra.cc"),
        ("runs.md", "#learning-rates", "#learning-rates"),
    ],
)
def test_links_of_the_checkout_become_links_of_the_site(place, link, turned):
    page = SimpleNamespace(file=SimpleNamespace(src_uri=place))
    text = SITE["on_page_markdown"](f"[x]({link})", page, None, None)
    assert text == f"[x]({turned})"


def test_site_builds_offline_from_the_extra():
    text = read("mkdocs.yml") + read("Makefile")
    assert "font: false" in text and "use_directory_urls: false" in text
    assert "strict: true" in text and "mkdocs build" in text
    assert "/site/" in read(".gitignore").splitlines()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Folder of the built site."""
    for package in ("mkdocs", "material", "mkdocstrings"):
        if find_spec(package) is None:
            pytest.skip(f"needs {package}, of the extra docs; it is not installed")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--site-dir", folder],
        cwd=CHECKOUT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_site_has_readme_pages_and_docstrings(site):
    def text(name):
        return re.sub(r"<[^>]+>", "", (site / name).read_text(encoding="utf-8"))

    assert "Trains two small attention-free networks" in text("index.html")
    assert "energyflow train +experiment=ab" in text("first_hour.html")
    assert "Mean of the unmasked tokens of each sequence." in text("api/ops.html")
    assert "Open a trained model, to encode texts" in text("api/index.html")


def test_pages_of_the_site_load_nothing_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 40
    for page in pages:
        loaded = re.findall(LOADED, page.read_text(encoding="utf-8"))
        assert loaded and not [url for url in loaded if "//" in url], page


def test_a_linked_source_file_lies_on_the_site(site):
    link = "files/energyflow_mlx/teacher/load.py.txt"
    assert f'href="{link}"' in (site / "teachers.html").read_text(encoding="utf-8")
    assert (site / link).read_text() == read("energyflow_mlx/teacher/load.py")
