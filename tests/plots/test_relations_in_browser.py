"""What the page says of parents and children, of regions and of two sentences."""

import dataclasses

import numpy as np
import pytest

from energyflow_mlx.plots import write_page
from tests.plots.browser import Browser, find_chromium
from tests.plots.records import count_on_face, make_cube, make_record

pytestmark = pytest.mark.skipif(
    find_chromium() is None, reason="needs Chromium; none is installed"
)
TEXTS = ("A dog runs.", "Two cats sleep on it.", "A cat runs.")


@pytest.fixture(scope="module")
def records():
    cube = make_cube()
    made = [make_record(cube, text, seed) for seed, text in enumerate(TEXTS)]
    made[2].position[-1, 7, :2] = made[2].landed[7, :2] = (-1.0, 1.0)
    size = cube.width, cube.height
    far = count_on_face(made[2].landed, 1.0, *size)
    return [*made[:2], dataclasses.replace(made[2], arrivals_far=far)]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser
        assert browser.problems == []


@pytest.fixture
def page(browser, records, tmp_path):
    browser.open(write_page(tmp_path / "flows.html", make_cube(), records, "mine"))
    return browser


def choose(page, name, value):
    """Choose an option, as a user does, and wait for the picture."""
    before = page.evaluate("Number(view.canvas.dataset.frame)")
    page.evaluate(
        f"(() => {{ const e = document.getElementById({name!r}); e.value = {value!r};"
        "e.dispatchEvent(new Event('change')); request(); })()"
    )
    page.wait_for(f"Number(view.canvas.dataset.frame) > {before} && !queued")


def test_a_child_is_linked_to_its_parent_and_both_are_named(page, records):
    assert records[0].parent[30:].tolist() == [0, 1]
    assert page.evaluate("Array.from(scene.sentence.parent)") == (
        records[0].parent.tolist()
    )
    child = page.evaluate("describeFlow(page, scene.sentence, 31)")
    assert "a child of flow 1, born at step 1," in child
    parent = page.evaluate("describeFlow(page, scene.sentence, 1)")
    assert parent.endswith("Its children: 31.")
    ends = page.evaluate(
        "(() => { const seen = []; const line = view.context.lineTo;"
        "view.context.lineTo = (...to) => seen.push(to);"
        "drawBirths(view, {...scene, time: 2}); view.context.lineTo = line;"
        "return [seen, [0, 1].map((i) => [...view.place(scene.sentence, i, 2)])]; })()"
    )
    np.testing.assert_allclose(ends[0], ends[1])


def test_flows_are_colored_by_what_is_lost_without_their_region(page):
    shown = page.evaluate("view.canvas.toDataURL()")
    choose(page, "color", "worth")
    assert page.evaluate("view.canvas.toDataURL()") != shown
    assert page.text("#measure") == "loss of cosine"
    assert (page.text("#least"), page.text("#most")) == ("0", "0.50")
    shades = "shadesOf(page, scene).of"
    page.evaluate("scene.sentence.parent[30] = 29")
    found = [page.evaluate(f"{shades}(0, {flow})") for flow in (0, 29, 30, 31)]
    assert found == [0, 32, 32, 0], "first and last row, a child of either"
    page.evaluate("scene.sentence.parent[30] = 0")
    choose(page, "color", "energy")
    assert page.evaluate("view.canvas.toDataURL()") == shown


def test_a_sentence_is_compared_with_the_one_nearest_in_words(page, records):
    assert page.text("#words") == "Words that only one has: dog, cat."
    options = page.evaluate("Array.from(element('other').options, (o) => o.text)")
    assert options == [TEXTS[2], TEXTS[1]]
    found = page.evaluate(
        "Array.from(arrivalsChange(scene.sentence, sentenceAt(2), page.steps, true))"
    )
    given = records[0].arrivals_far - records[2].arrivals_far
    assert np.abs(given).sum() == 2
    assert np.array_equal(np.reshape(found, given.shape), given)
    energies = records[0].surface_out - records[2].surface_out
    said = page.text("#output-change-text")
    assert said == f"energies: ±{np.abs(energies).max():.1f}"
    choose(page, "other", "1")
    assert "Two, cats, sleep, on, it." in page.text("#words")
    assert page.text("#output-change-text") != said


def test_a_lone_sentence_is_compared_with_none(browser, records, tmp_path):
    path = write_page(tmp_path / "one.html", make_cube(), records[:1], "mine")
    browser.open(path)
    assert browser.evaluate("element('comparison').hidden")


def test_the_medium_is_shown_where_there_is_one(browser, records, tmp_path):
    """Energy in one cell, by x, y and z, that moves along z with the steps."""
    field = np.zeros((5, 3, 3, 3))
    field[4, 2, 0, 1] = -0.5
    cube, one = make_cube(), dataclasses.replace(records[0], field=field)
    browser.open(write_page(tmp_path / "f.html", cube, [one, records[1]], "mine"))
    assert not browser.evaluate("element('medium').hidden")
    views = browser.evaluate("Array.from(scene.sentence.field.views)")
    front, above = np.reshape(views, (5, 2, 3, 3))[4]
    assert front[0, 2] == above[1, 2] == -0.5
    assert np.abs(views).sum() == 1.0
    assert browser.text("#front-text") == "x and y: ±0.50"
    choose(browser, "sentence", TEXTS[1])
    assert browser.evaluate("element('medium').hidden")
