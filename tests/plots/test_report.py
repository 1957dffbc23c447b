"""The report of a run: every series and table by its numbers, and nothing is loaded."""

import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import numpy as np
import pytest

from energyflow_mlx.config import Config
from energyflow_mlx.errors import InputError
from energyflow_mlx.evaluation.corrections import SPEED
from energyflow_mlx.plots import Flows, read_facts, write_report
from energyflow_mlx.plots.curves import curves_of, gid_of, panels_of
from energyflow_mlx.runs.folder import RunFolder
from energyflow_mlx.runs.metrics import MetricsLog
from tests.plots.browser import Browser, find_chromium
from tests.plots.records import make_cube, make_record

needs_chromium = pytest.mark.skipif(
    find_chromium() is None, reason="needs Chromium; none is installed"
)
SVG = "{http://www.w3.org/2000/svg}"
SCORES = {"exact": 0.25, "token_f1": 0.5, "cosine": 0.75, "sentences": 40}
EVALUATION = {
    **{"cosine": 0.81, "sentences": 40, "spearman": {"pairs": 71.5}},
    "corrections_0": SCORES | {"sentences_per_second": 50.0},
    "corrections_4": SCORES | {"exact": 0.5, "length": {"short": SCORES}},
    "details": {
        "failures": {
            **{"sentences": 40, "wrong": 20},
            "worst": [
                {
                    "sentence": "A <i> dog.",
                    "written": [
                        {"corrections": 0, "text": "a cat.", "cosine": 0.25},
                        {"corrections": 4, "text": "a dog & a cat.", "cosine": 0.5},
                    ],
                }
            ],
        },
        "retrieval": {
            **{"sentences": 40, "confused": 1},
            "worst": [
                {"sentence": "A <b> & a c.", "nearest": "Another one."}
                | {"own_cosine": 0.25, "nearest_cosine": 0.75}
            ],
        },
        "sts": {"pairs": {"score": [0.0, 2.5, 5.0, 1.0], "cosine": [0.1, 0.4, 1, 0]}},
    },
}


def records():
    rng = np.random.default_rng(0)
    for step in range(10, 101, 10):
        a, b, c = rng.normal(size=3)
        seconds = step * 0.25 + 0.01 * c
        yield {"kind": "train", "step": step, "distillation_loss": 2.0 + a} | {
            **{"distillation_lr": 1e-3 / step, "distillation_grad_norm": 3.0 + b},
            **{"reconstruction_loss": 7.0 + b, "seconds": seconds},
        }
        yield {"kind": "timing", "step": step, "build_ms": 3.0 + a}
        if step % 50 == 0:
            yield {"kind": "validation", "step": step, "cosine": 0.5 + step / 400} | {
                **{"p_at_1": step / 100, "similarity": 60.0 + a, "best": True}
            }


def sample(step, number, decoded, cosine):
    return {"step": step, "path": "plain", "sentence": number} | {
        **{"original": f"Sentence {number}.", "decoded": decoded, "cosine": cosine}
    }


SAMPLES = [
    sample(50, 3, "early three", 0.125),
    sample(50, 9, "early nine", 0.25),
    sample(100, 3, "late three", 0.5),
    sample(100, 9, "late nine", None),
]


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    """A run folder as training and evaluation leave it, read again."""
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "mine")
    config = Config(seed=7)
    folder.begin(config)
    for path, rows in ((folder.metrics, records()), (folder.samples, SAMPLES)):
        with MetricsLog(path) as log:
            for row in rows:
                log.write(row)
    folder.evaluation.write_text(json.dumps(EVALUATION))
    folder.write_summary(
        {"status": "finished", "steps": 100, "seconds": 25.0}
        | {
            "final": {"cosine": 0.75, "bleu": 12.5},
            "best": {"cosine": 0.75, "step": 50},
        }
    )
    return read_facts(folder)


@pytest.fixture(scope="module")
def page(facts, tmp_path_factory):
    cube = make_cube()
    flows = Flows(
        cube, [make_record(cube, "A dog runs.", 0), make_record(cube, "B", 1)]
    )
    return write_report(tmp_path_factory.mktemp("report"), facts, [flows])


class Tables(HTMLParser):
    """Tables of each section, as rows of texts."""

    def __init__(self, text):
        super().__init__()
        self.found, self._section, self._cell = {}, "", None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag == "section":
            self._section = dict(attributes)["id"]
        elif tag == "table":
            self.found.setdefault(self._section, []).append([])
        elif tag == "tr":
            self.found[self._section][-1].append([])
        elif tag in ("td", "th"):
            self._cell = ""

    def handle_data(self, data):
        if self._cell is not None:
            self._cell += data

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.found[self._section][-1][-1].append(self._cell)
            self._cell = None


@pytest.fixture(scope="module")
def tables(page):
    return Tables(page.read_text(encoding="utf-8")).found


def groups(page):
    """Every group of every picture by its id."""
    text = page.read_text(encoding="utf-8")
    pictures = re.findall(r"<svg .*?</svg>", text, re.DOTALL)
    roots = [ET.fromstring(picture) for picture in pictures]
    return {g.get("id"): g for root in roots for g in root.iter(f"{SVG}g")}


def points_of(group):
    """Coordinates of a curve's line in its picture, ``[N, 2]``."""
    path = next(group.iter(f"{SVG}path")).get("d")
    return np.array(re.findall(r"[ML] (\S+) (\S+)", path), float)


def is_affine(drawn, values):
    """Whether pictures of numbers lie as the numbers do, the same way up or turned."""
    fit = np.polyfit(values, drawn, 1)
    return np.allclose(np.polyval(fit, values), drawn, atol=0.01) and fit[0] != 0


CURVES = curves_of(list(records()))
DRAWN = [(p.file, key) for p, chosen in panels_of(CURVES) for key in chosen]


@pytest.mark.parametrize(("file", "key"), DRAWN, ids=lambda v: "-".join(v))
def test_every_curve_lies_as_its_numbers_do(file, key, page):
    steps, values = CURVES[key]
    points = points_of(groups(page)[f"{file}-{gid_of(*key)}"])
    assert len(points) == len(values)
    assert is_affine(points[:, 0], steps) and is_affine(-points[:, 1], values)
    rising = np.polyfit(values, points[:, 1], 1)[0]
    assert rising < 0, "y of a picture runs downwards"


def test_what_is_drawn_is_what_was_logged(facts):
    names = {label for _, (_, label) in DRAWN}
    assert names == {
        *("distillation_loss", "reconstruction_loss", "cosine", "p_at_1", "step_ms"),
        *("distillation_lr", "distillation_grad_norm", "build_ms", "similarity"),
    }
    rows = [r for r in records() if r["kind"] == "train"]
    for name in ("distillation_loss", "distillation_lr"):
        steps, values = facts.curves["train", name]
        assert steps.tolist() == [r["step"] for r in rows]
        assert values.tolist() == [r[name] for r in rows]
    took = np.diff([r["seconds"] for r in rows]) / 10 * 1e3
    np.testing.assert_allclose(facts.curves["train", "step_ms"][1], took)


def test_the_curves_are_in_figures_too(tables):
    (table,) = tables["curves"]
    row = next(r for r in table if r[:2] == ["cosine", "validation"])
    assert row[2:] == ["2", "0.625", "0.75", "0.625", "50", "0.75", "100"]


def test_figures_of_training_and_evaluation_stand_beside_each_other(tables):
    assert tables["figures"] == [
        [
            ["measure", "end of training", "latest evaluation"],
            ["cosine", "0.75", "0.81"],
            ["bleu", "12.5", "–"],
            ["sentences", "–", "40"],
            ["spearman pairs", "–", "71.5"],
        ]
    ]


def test_sentences_are_those_of_the_best_update_and_before_that_history(tables):
    best, history = tables["sentences"]
    assert best == [
        ["held-out sentence", "decoded", "cosine"],
        ["Sentence 3.", "early three", "0.125"],
        ["Sentence 9.", "early nine", "0.25"],
    ]
    assert [row[0] for row in history[1:]] == ["50", "100", "50", "100"]
    assert history[4] == ["100", "Sentence 9.", "late nine", "–"]


def test_confused_sentences_are_shown_as_text(tables, page):
    (table,) = tables["confused"]
    assert table[1] == ["A <b> & a c.", "Another one.", "0.25", "0.75"]
    assert "1 of 40 held-out sentences" in page.read_text(encoding="utf-8")


def test_figures_after_corrections_stand_below_each_other_and_groups_apart(tables):
    every, groups = tables["corrections"]
    assert every == [
        [
            *("sentences", "corrections", "BLEU"),
            *("exact", "token F1", "cosine", SPEED),
        ],
        ["40", "0", "–", "0.25", "0.5", "0.75", "50"],
        ["40", "4", "–", "0.5", "0.5", "0.75", "–"],
    ]
    assert groups[1:] == [["length: short", "40", "4", "–", "0.25", "0.5", "0.75"]]


def test_what_is_not_decoded_exactly_is_shown_before_and_after(tables, page):
    (table,) = tables["failures"]
    assert table[1:] == [
        ["A <i> dog.", "0", "a cat.", "0.25"],
        ["", "4", "a dog & a cat.", "0.5"],
    ]
    assert "20 of 40 held-out sentences are not" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"corrections_x": {}}, "corrections_x must end in a number"),
        ({"corrections_1": {"exact": "all"}}, "corrections_1 must be an object"),
        ({"details": {"failures": {"wrong": 1}}}, "failures: sentences must be"),
    ],
)
def test_an_evaluation_that_nobody_here_wrote_is_refused(tmp_path, change, message):
    folder = RunFolder(tmp_path)
    folder.begin(Config())
    MetricsLog(folder.metrics).close()
    folder.evaluation.write_text(json.dumps(change))
    with pytest.raises(InputError, match=message):
        read_facts(folder)


def test_every_pair_of_an_sts_file_is_a_point(page):
    uses = list(groups(page)["sts0-sts-pairs"].iter(f"{SVG}use"))
    points = np.array([[float(u.get("x")), float(u.get("y"))] for u in uses])
    given = EVALUATION["details"]["sts"]["pairs"]
    assert is_affine(points[:, 0], given["score"])
    assert is_affine(-points[:, 1], given["cosine"])
    assert "pairs: Spearman x 100 = 71.50" in page.read_text(encoding="utf-8")


def test_settings_are_those_of_the_run_and_changed_ones_stand_out(tables, page):
    changed, everything = tables["settings"]
    assert changed == [["changed setting", "value"], ["seed", "7"]]
    assert ["share", "last"] in everything and len(everything) > 60
    assert page.read_text(encoding="utf-8").count('<tr class="changed">') == 1


def test_a_run_in_the_making_has_a_report_of_what_there_is(facts, tmp_path):
    folder = RunFolder(tmp_path / "young")
    folder.begin(Config())
    with MetricsLog(folder.metrics) as log:
        log.write({"kind": "train", "step": 1, "loss": 2.0})
    text = write_report(tmp_path, read_facts(folder)).read_text(encoding="utf-8")
    assert "This run has not ended." in text
    assert re.findall(r'<section id="(\w+)">', text) == ["curves", "settings"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_in_both_themes_and_asks_for_nothing(scheme, browser, page, tmp_path):
    browser.problems.clear()
    browser.requests.clear()
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.call("Emulation.setEmulatedMedia", features=[feature])
    browser.call("Page.navigate", url=page.as_uri())
    inner = "document.querySelector('iframe')?.contentDocument?.documentElement"
    browser.wait_for(f"{inner}?.dataset.ready === 'yes'")
    asked = {url for url in browser.requests if not url.startswith("data:")}
    assert asked == {page.as_uri()} and browser.problems == []
    paper, ink = browser.evaluate(
        "[getComputedStyle(document.body).backgroundColor,"
        " getComputedStyle(document.querySelector('svg text')).fill]"
    )
    light, dark = (sum(map(int, re.findall(r"\d+", c)[:3])) for c in (paper, ink))
    assert (light > dark) == (scheme == "light")
    assert browser.evaluate("document.documentElement.scrollWidth") <= 1280
    assert browser.screenshot(tmp_path / "page.png").stat().st_size > 20_000
