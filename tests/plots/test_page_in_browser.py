"""The page of the flows in a real browser: it draws, answers and says what is seen."""

import re
import time

import numpy as np
import pytest

from energyflow_mlx.plots import write_page
from tests.plots.browser import Browser, find_chromium
from tests.plots.records import make_cube, make_record

pytestmark = pytest.mark.skipif(
    find_chromium() is None, reason="needs Chromium; none is installed"
)
TEXTS = ("A dog runs along the beach.", "Two <b>women</b> wait & talk.")
STEPS = 4


@pytest.fixture(scope="module")
def records():
    cube = make_cube(steps=STEPS)
    return [make_record(cube, text, seed) for seed, text in enumerate(TEXTS)]


@pytest.fixture(scope="module")
def path(records, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    return write_page(folder / "flows.html", make_cube(steps=STEPS), records, "mine")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture
def page(browser, path):
    """Open the page anew; at the end nothing may have gone wrong in it."""
    browser.problems.clear()
    browser.call("Emulation.setEmulatedMedia", features=[])
    browser.open(path)
    yield browser
    assert browser.problems == []


def picture(page):
    """Pixels of the cube as it is drawn now, as text to compare."""
    return page.evaluate("view.canvas.toDataURL()")


def frames(page):
    return page.evaluate("Number(view.canvas.dataset.frame)")


def settled(page):
    """Number of frames, once none is on its way; a page that plays never settles."""
    seen = frames(page)
    for _ in range(10):
        time.sleep(0.03)
        before, seen = seen, frames(page)
        if seen == before:
            break
    return seen


def drawn_after(page, act):
    """Do something, wait until the cube has been drawn anew, and give its pixels."""
    before = settled(page)
    act()
    page.wait_for(f"Number(view.canvas.dataset.frame) > {before}")
    return picture(page)


def press(page, key):
    return drawn_after(page, lambda: page.press(key))


def step(page):
    return page.evaluate("Number(document.getElementById('step').value)")


def inked(page, canvas):
    """Share of a canvas's pixels that are not empty, and how many colors there are."""
    return page.evaluate(
        f"(() => {{ const c = document.getElementById({canvas!r});"
        "const copy = new OffscreenCanvas(c.width, c.height)"
        ".getContext('2d', { willReadFrequently: true }); copy.drawImage(c, 0, 0);"
        "const d = copy.getImageData(0, 0, c.width, c.height).data;"
        "const seen = new Set(); let n = 0;"
        "for (let i = 0; i < d.length; i += 4) if (d[i + 3]) {"
        "n++; seen.add((d[i] << 16) | (d[i + 1] << 8) | d[i + 2]); }"
        "return [4 * n / d.length, seen.size]; })()"
    )


def test_it_opens_with_a_picture_and_asks_for_nothing_else(page, path):
    share, colors = inked(page, "cube")
    assert share > 0.02 and colors > 100
    assert set(page.requests) == {path.as_uri()}
    assert page.text("#run") == "mine: 6 × 5 cells, 4 steps"
    assert page.evaluate("document.title") == "Flows of mine"


def test_it_holds_the_positions_of_the_flows(page, records):
    found = page.evaluate("Array.from(scene.sentence.position)")
    given = records[0].position
    np.testing.assert_allclose(np.reshape(found, given.shape), given, atol=2e-5)


def test_it_begins_at_the_end_and_counts_every_flow(page):
    assert step(page) == STEPS
    assert page.text("#caption") == (
        "Step 4 of 4: 1 flow travels, 15 rest on the near face, 16 on the far face. "
        "What still travels is projected onto the nearest face."
    )


def test_statistics_of_the_sentence_are_shown(page):
    rows = page.evaluate(
        "[...document.querySelectorAll('#statistics tr')]"
        ".map((r) => [...r.cells].map((c) => c.textContent))"
    )
    shown = dict(rows)
    assert shown["reach the far face, z = +1"] == "50.0 %"
    assert shown["of them spawned"] == "2"
    assert shown["mean sideways displacement"] == "0.312"
    assert "0.900" in page.text("#result")


def test_axes_faces_and_the_start_are_labelled(page):
    page.evaluate(
        "window.written = []; const write = view.context.fillText;"
        "view.context.fillText = function (t, ...r)"
        " { window.written.push(t); write.call(this, t, ...r); }"
    )
    drawn_after(page, lambda: page.evaluate("request()"))
    written = page.evaluate("window.written")
    drawn = written.count("start")  # a frame may still have been on its way
    assert drawn and {t: written.count(t) for t in "xyz"} == dict.fromkeys("xyz", drawn)
    assert written.count("−1") == written.count("+1") == 3 * drawn
    assert {"start", "near face, z = −1", "far face, z = +1"} <= set(written)


def test_the_legend_gives_numbers(page, records):
    top = max(np.abs(r.energy[r.alive]).max() for r in records)
    assert page.text("#most")[:3] == "≥ +"
    assert 0.7 * top < float(page.text("#most")[3:]) < 1.05 * top
    assert page.text("#least") == page.text("#most").replace("≥ +", "≤ −")


def test_buttons_go_one_step_back_and_forward(page):
    end = picture(page)
    back = drawn_after(page, lambda: page.click("#back"))
    assert step(page) == STEPS - 1 and back != end
    assert page.text("#caption").startswith("Step 3 of 4:")
    assert page.text("#clock") == "step 3 of 4"
    assert drawn_after(page, lambda: page.click("#forward")) == end


def test_steps_end_at_both_ends(page):
    for _ in range(STEPS + 2):
        press(page, ",")
    assert step(page) == 0
    assert page.text("#caption") == (
        "Step 0 of 4: 30 flows travel, 0 rest on the near face, 0 on the far face; "
        "2 will be spawned."
    )
    for _ in range(STEPS + 2):
        press(page, ".")
    assert step(page) == STEPS


def test_between_two_steps_flows_are_on_their_way(page, records):
    middle = records[0].position[1:3, 7].mean(axis=0)
    found = page.evaluate("Array.from(view.place(scene.sentence, 7, 1.5))")
    given = page.evaluate(f"Array.from(view.project(...{middle.tolist()}))")
    np.testing.assert_allclose(found, given, atol=0.02)


def test_near_flows_are_drawn_over_far_ones_and_larger(page):
    first = page.evaluate(
        "window.radii = []; scene.births = false; const arc = view.context.arc;"
        "view.context.arc = function (x, y, r, ...rest)"
        " { window.radii.push(r); arc.call(this, x, y, r, ...rest); };"
        "Number(view.canvas.dataset.frame)"
    )
    drawn_after(page, lambda: page.evaluate("goTo(1)"))
    radii, last = page.evaluate("[window.radii, Number(view.canvas.dataset.frame)]")
    # A new page may still be drawing itself: every frame draws every flow once.
    assert len(radii) == 32 * (last - first)
    radii = radii[-32:]
    assert radii == sorted(radii)
    assert radii[-1] > 1.2 * radii[0]


def test_the_slider_chooses_the_step(page):
    seen = {picture(page)}
    page.evaluate("document.getElementById('step').focus()")
    for expected in (3, 2, 1, 0):
        seen.add(press(page, "ArrowLeft"))
        assert step(page) == expected
        assert page.text("#clock") == f"step {expected} of 4"
    assert len(seen) == STEPS + 1


def test_play_runs_to_the_end_and_can_be_paused(page):
    page.click("#play")
    assert page.text("#play") == "Pause"
    page.wait_for("scene.time > 0.2 && scene.time < 4")
    early = picture(page)
    page.wait_for("scene.time > 1.3")
    assert picture(page) != early
    page.click("#play")
    assert page.text("#play") == "Play"
    stopped = page.evaluate("scene.time")
    assert 1.3 < stopped < 4
    page.wait_for("!queued")
    assert page.evaluate("scene.time") == stopped
    page.evaluate("document.activeElement.blur()")
    page.press(" ")
    assert page.text("#play") == "Pause"
    page.wait_for("!playing")
    assert page.evaluate("scene.time") == STEPS == step(page)
    assert page.text("#play") == "Play"


def test_another_sentence_shows_its_own_flows(page, records):
    first, rows = picture(page), page.text("#sentence")
    assert TEXTS[0] in rows and TEXTS[1] in rows, "shown as text, not as markup"
    page.evaluate("document.getElementById('sentence').focus()")
    second = press(page, "ArrowDown")
    assert page.evaluate("document.getElementById('sentence').selectedIndex") == 1
    assert second != first
    found = page.evaluate("Array.from(scene.sentence.energy)")
    given = records[1].energy
    np.testing.assert_allclose(np.reshape(found, given.shape), given, atol=1e-4)
    assert press(page, "ArrowUp") == first


def drag(page, dx, dy):
    x, y = page.center("#cube")
    page.mouse("mousePressed", x, y)
    for share in (0.5, 1.0):
        page.mouse("mouseMoved", x + share * dx, y + share * dy, buttons=1)
    page.mouse("mouseReleased", x + dx, y + dy)


@pytest.mark.parametrize(("dx", "dy"), [(120, 0), (0, 80)], ids=["yaw", "pitch"])
def test_dragging_rotates_and_reset_brings_it_back(dx, dy, page):
    before = picture(page)
    angles = page.evaluate("[view.yaw, view.pitch]")
    assert drawn_after(page, lambda: drag(page, dx, dy)) != before
    turned = np.subtract(page.evaluate("[view.yaw, view.pitch]"), angles)
    np.testing.assert_allclose(turned, [0.008 * dx, 0.008 * dy], atol=1e-9)
    page.click("#reset")
    page.wait_for("!scene.moving && !queued")
    assert picture(page) == before


def test_moving_the_mouse_without_a_button_does_nothing(page):
    x, y = page.center("#cube")
    angles = page.evaluate("[view.yaw, view.pitch]")
    page.mouse("mouseMoved", x, y, button="none")
    page.mouse("mouseMoved", x + 50, y + 50, button="none")
    assert page.evaluate("[view.yaw, view.pitch]") == angles


def touch(page, kind, *points):
    places = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(points)]
    page.call("Input.dispatchTouchEvent", type=kind, touchPoints=places)


def test_a_finger_rotates_and_two_fingers_zoom(page):
    page.call("Emulation.setTouchEmulationEnabled", enabled=True, maxTouchPoints=2)
    x, y = page.center("#cube")
    yaw = page.evaluate("view.yaw")
    touch(page, "touchStart", (x, y))
    touch(page, "touchMove", (x + 60, y))
    touch(page, "touchEnd")
    assert page.evaluate("view.yaw") == pytest.approx(yaw + 0.48)
    touch(page, "touchStart", (x - 40, y), (x + 40, y))
    touch(page, "touchMove", (x - 80, y), (x + 80, y))
    touch(page, "touchEnd")
    page.call("Emulation.setTouchEmulationEnabled", enabled=False)
    assert page.evaluate("view.zoom") == pytest.approx(2.0)
    assert page.evaluate("view.yaw") == pytest.approx(yaw + 0.48)


def test_the_wheel_zooms(page):
    before = picture(page)
    x, y = page.center("#cube")
    wheel = {"deltaX": 0, "deltaY": -300, "button": "none", "clickCount": 0}
    assert drawn_after(page, lambda: page.mouse("mouseWheel", x, y, **wheel)) != before
    assert page.evaluate("view.zoom") > 1.3


def test_keys_rotate_zoom_and_reset_when_the_cube_has_the_focus(page):
    page.evaluate("view.canvas.focus()")
    page.wait_for("!queued")
    seen = {first := picture(page)}
    for key in ("ArrowLeft", "ArrowUp", "+", "ArrowRight", "ArrowDown", "-"):
        seen.add(press(page, key))
    assert len(seen) == 6, "the last key undoes what was left"
    press(page, "+")
    press(page, "0")
    page.wait_for("!scene.moving && !queued")
    assert picture(page) == first
    assert step(page) == STEPS, "arrows rotate here, they do not step"


@pytest.mark.parametrize("name", ["trails", "faces", "births"])
def test_trails_faces_and_births_can_be_hidden(name, page):
    shown, before = picture(page), inked(page, "cube")[0]
    assert drawn_after(page, lambda: page.click(f"#{name}")) != shown
    assert inked(page, "cube")[0] < before
    assert drawn_after(page, lambda: page.click(f"#{name}")) == shown


def test_arrivals_fill_the_maps_of_both_faces_with_time(page):
    assert page.text("#near-text").startswith("near face: 15 flows on ")
    assert page.text("#far-text").startswith("far face: 16 flows on ")
    ends = [inked(page, name)[1] for name in ("near", "far")]
    assert min(ends) >= 2, "empty cells and hit ones"
    for _ in range(STEPS):
        press(page, ",")
    assert page.text("#near-text") == "near face: 0 flows on 0 % of the cells"
    assert [inked(page, name)[1] for name in ("near", "far")] == [1, 1]


@pytest.mark.parametrize("face", [-1.0, 1.0], ids=["near", "far"])
def test_cells_of_a_face_count_the_flows_that_rest_on_them(face, page, records):
    far, near = records[0].arrivals_far, records[0].arrivals_near
    landed = far if face > 0 else near.copy()
    if face == -1:
        landed[0, 0] -= 1  # the first flow is projected there, it did not arrive
    call = f"cells(page, scene.sentence, {STEPS}, {str(face > 0).lower()}).count"
    found = page.evaluate(f"Array.from({call})")
    assert np.array_equal(np.reshape(found, landed.shape), landed)


def test_surfaces_are_shown_with_their_scale(page, records):
    assert min(inked(page, name)[1] for name in ("input", "output")) > 20
    both = (records[0].surface_in, records[0].surface_out)
    for name in ("input", "output"):  # on one scale
        said = float(page.text(f"#{name}-text").rpartition("+")[2])
        assert said == pytest.approx(np.abs(both).max(), rel=0.05)


def place_of(page, flow, time):
    """Where a flow's dot is in the window."""
    return page.evaluate(
        "(() => { const r = view.canvas.getBoundingClientRect();"
        f"const p = view.place(scene.sentence, {flow}, {time});"
        "return [r.x + p[0], r.y + p[1]]; })()"
    )


def lonely_flow(page, time):
    """A flow whose dot no other is near to."""
    return page.evaluate(
        "(() => { const all = Array.from({length: scene.sentence.flows}, (_, i) =>"
        f" [...view.place(scene.sentence, i, {time})].slice(0, 2));"
        "const gap = (i) => Math.min(...all.map((p, k) => k === i ? 1e9 :"
        " Math.hypot(p[0] - all[i][0], p[1] - all[i][1])));"
        "return all.reduce((best, _, i) => gap(i) > gap(best) ? i : best, 0); })()"
    )


def cell_of(x, y):
    column, row = np.rint((x + 1) / 2 * 5), np.rint((y + 1) / 2 * 4)
    return f"({int(column)}, {int(row)})"


def test_the_flow_under_the_mouse_is_named_and_a_click_pins_it(page, records):
    drawn_after(page, lambda: page.evaluate("goTo(2)"))
    page.evaluate("view.canvas.scrollIntoView({block: 'center'})")
    flow, record, before = lonely_flow(page, 2), records[0], picture(page)
    x, y = place_of(page, flow, 2)
    over = drawn_after(page, lambda: page.mouse("mouseMoved", x, y, button="none"))
    said = page.text("#flow")
    born, face = int(record.born[flow]), "far" if record.landed[flow, 2] > 0 else "near"
    assert said.startswith(f"Flow {flow} starts at cell ")
    assert cell_of(*record.position[born, flow, :2]) in said
    assert f"cell {cell_of(*record.landed[flow, :2])} of the {face} face" in said
    energies = [float(e.replace("−", "-").rstrip(".")) for e in
                re.findall(r"energy (\S+?)[;.]?(?=\s|$)", said)]  # fmt: skip
    ends = record.energy[[born, -1], flow]
    np.testing.assert_allclose(energies, ends, rtol=0.01, atol=1e-3)
    assert over != before
    page.mouse("mousePressed", x, y)
    page.mouse("mouseReleased", x, y)
    page.mouse("mouseMoved", x + 400, y - 400, button="none")
    assert page.text("#flow") == f"Pinned: {said}"
    page.mouse("mousePressed", x, y)
    page.mouse("mouseReleased", x, y)
    page.mouse("mouseMoved", 1, 1, button="none")
    page.wait_for("!queued")
    assert page.text("#flow").startswith("Point at a flow")


def test_a_flow_that_never_arrives_is_said_to_be_projected(page):
    said = page.evaluate("describeFlow(page, scene.sentence, 0)")
    assert "never arrives and is projected onto cell " in said
    spawned = page.evaluate("describeFlow(page, scene.sentence, 31)")
    assert "a child of flow 1, born at step 1, with energy" in spawned
    assert "at step 4 with energy" in spawned or "at step 3 with energy" in spawned


def test_dragging_pins_nothing(page):
    drag(page, 60, 0)
    assert page.evaluate("pick.pinned") == -1


def contrast(first, second):
    """Ratio of WCAG 2.2's relative luminances."""
    lights = []
    for color in (first, second):
        share = np.array(color) / 255
        low, high = share / 12.92, ((share + 0.055) / 1.055) ** 2.4
        lights.append(
            np.dot(np.where(share <= 0.04, low, high), [0.2126, 0.7152, 0.0722])
        )
    return (max(lights) + 0.05) / (min(lights) + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_and_flows_stand_out_in_light_and_dark(scheme, page, path):
    feature = {"name": "prefers-color-scheme", "value": scheme}
    page.call("Emulation.setEmulatedMedia", features=[feature])
    page.open(path)
    palette = page.evaluate("readPalette()")
    assert (np.mean(palette["paper"]) > 128) == (scheme == "light")
    assert contrast(palette["ink"], palette["paper"]) > 7
    assert contrast(palette["quiet"], palette["paper"]) > 4.5
    for color in palette["energies"]:
        assert contrast(color, palette["paper"]) > 2.5


def test_a_change_of_the_scheme_is_followed(page):
    feature = {"name": "prefers-color-scheme", "value": "dark"}
    before = picture(page)
    page.call("Emulation.setEmulatedMedia", features=[feature])
    page.wait_for("scene.palette.paper.every((c) => c < 128)")
    # A frame that was on its way has the colors from before.
    drawn_after(page, lambda: page.evaluate("request()"))
    assert drawn_after(page, lambda: page.evaluate("request()")) != before


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_wider_than_the_window(width, page):
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    page.call("Emulation.setDeviceMetricsOverride", **size)
    wide = page.evaluate("document.documentElement.scrollWidth")
    page.call("Emulation.clearDeviceMetricsOverride")
    assert wide <= width


def test_a_closed_face_says_so(browser, tmp_path):
    cube = make_cube(is_dual=False)
    browser.problems.clear()
    browser.open(write_page(tmp_path / "f.html", cube, [make_record(cube)], "far"))
    assert browser.text("#near-text") == "near face: closed"
    assert browser.text("#caption") == (
        "Step 4 of 4: 1 flow travels, 31 rest on the far face. "
        "What still travels is projected onto the far face."
    )
    assert browser.problems == []


def test_long_trails_are_thinned_and_the_page_says_so(browser, tmp_path):
    cube = make_cube(60, 60, 25)
    browser.open(write_page(tmp_path / "f.html", cube, [make_record(cube)], "big"))
    assert browser.text("#thinned") == "The trails of one flow in 2 are drawn."
    assert inked(browser, "cube")[1] > 100


def test_the_watch_for_problems_sees_them(browser, tmp_path):
    """Else an error in the page would pass unseen."""
    page = tmp_path / "bad.html"
    page.write_text(
        "<script>document.documentElement.dataset.ready = 'yes';"
        "console.error('said'); absent();</script>"
    )
    browser.problems.clear()
    browser.open(page)
    assert any("said" in p for p in browser.problems)
    assert any("absent is not defined" in p for p in browser.problems)
