"""What a run says at its end: its sentences, and commands that can be typed."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from energyflow_mlx.config import TeacherConfig
from energyflow_mlx.display import RunDisplay
from energyflow_mlx.training.reporting import (
    measured,
    next_commands,
    sample_lines,
    show_validation,
)
from energyflow_mlx.training.state import Progress
from tests.build.tiny import make_config

RUN = Path("runs/mine")
BOTH, NONE = {"encoder", "decoder", "shared"}, set()


def typed(config, parts, run=RUN):
    """Commands as lines, without ``energyflow`` before them."""
    lines = [" ".join(words) for words in next_commands(config, run, parts)]
    return [line.removeprefix("energyflow ") for line in lines]


def test_a_whole_model_encodes_decodes_is_measured_and_drawn():
    assert typed(make_config(), BOTH) == [
        "echo 'A dog runs on the beach.' > sentences.txt",
        "encode run=runs/mine input=sentences.txt output=vectors.npy",
        "decode run=runs/mine input=vectors.npy output=decoded.txt",
        "evaluate run=runs/mine",
        "plot run=runs/mine",
    ]


def test_the_runs_own_text_is_taken_held_out_first():
    config = make_config()
    config.data.train, config.data.val = ["a.jsonl", "b.txt"], ["my c.txt.gz"]
    (encode, *_) = typed(config, {"encoder"})
    assert encode == ("encode run=runs/mine 'input=my c.txt.gz' output=vectors.npy"), (
        "quoted for a shell"
    )
    config.data.val = []
    assert "input=b.txt" in typed(config, {"encoder"})[0]


def test_nothing_is_offered_that_a_model_cannot_do():
    config = make_config()
    names = [line.split()[0] for line in typed(config, {"encoder", "shared"})]
    assert names == ["echo", "encode", "evaluate", "plot"]
    assert [line.split()[0] for line in typed(config, {"decoder", "shared"})] == [
        *("evaluate", "plot")
    ]
    config.teacher = TeacherConfig(kind="precomputed", val_vectors="v.npy")
    assert typed(config, {"decoder", "shared"})[0] == (
        "decode run=runs/mine input=v.npy output=decoded.txt"
    )
    assert typed(config, {"lattice"})[0] == (
        "encode run=runs/mine input=v.npy output=vectors.npy"
    )


def test_a_function_as_teacher_is_named_again_where_it_is_needed():
    config = make_config()
    config.teacher = TeacherConfig(kind="callable", function="mine:embed")
    assert "evaluate run=runs/mine function=mine:embed" in typed(config, BOTH)


RECORDS = [
    {"path": path, "sentence": n, "original": f"s{n}", "decoded": f"{path} {n}"}
    | {"cosine": cosine}
    for path, cosine in (("plain", 0.5), ("through_lattice", None))
    for n in (3, 8)
]


def test_originals_stand_over_what_every_path_wrote():
    assert sample_lines(RECORDS, 1) == [
        ("held out", "s3"),
        ("decoded", "plain 3  (cosine 0.50)"),
        ("through lattice", "through_lattice 3"),
    ]
    assert len(sample_lines(RECORDS, 5)) == 6
    assert sample_lines([], 2) == []


def test_a_validation_says_whether_it_is_the_best():
    said = []
    for best in (20, 10):
        stream = io.StringIO()
        display = RunDisplay(console=Console(file=stream))
        progress = Progress(step=20, best_step=best)
        show_validation(display, {"cosine": 0.5}, progress, RECORDS)
        said.append(stream.getvalue().splitlines())
    assert said[0][0] == "validation at update 20: cosine 0.5000  (the best so far)"
    assert said[1][0] == "validation at update 20: cosine 0.5000  (best at update 10)"
    assert "  decoded          plain 3  (cosine 0.50)" in said[0]


@pytest.mark.parametrize(
    ("step", "title"),
    [
        (264, "Held-out sentences, update 264: the last, and the best by cosine"),
        (220, "Held-out sentences, update 220 of 264: the best by cosine"),
    ],
)
def test_the_table_says_which_update_it_measures(step, title):
    best = {"cosine": 0.9, "step": step}
    assert measured({"steps": 264, "best": best}) == title
