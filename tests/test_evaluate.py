"""The evaluate command: the table of the end of training, on any held-out sentences."""

import json

import numpy as np
import pytest

from energyflow_mlx import load
from energyflow_mlx.build.data import load_held_out
from energyflow_mlx.build.objectives import build_objectives
from energyflow_mlx.build.run import run
from energyflow_mlx.errors import InputError
from energyflow_mlx.evaluate import EvaluateArgs, EvaluateData, evaluate
from energyflow_mlx.evaluation.generation import decoding_metrics
from energyflow_mlx.evaluation.similarity import cosine_rows, spearman
from energyflow_mlx.inference.correcting import Rounds
from energyflow_mlx.runs.folder import RunFolder
from tests.build.test_run import small


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated")
    return folder / "run", run(small(folder, {"trainer.max_steps": 4}))


def table(capsys, **arguments):
    evaluate(EvaluateArgs(**arguments))
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_without_files_it_measures_the_runs_own_held_out_sentences(trained, capsys):
    """The same function as at the end of training gives the same figures."""
    folder, summary = trained
    found = table(capsys, run=str(folder), decode_samples=2)
    assert found.pop("seconds") > 0 and found.pop("sentences") == 6
    causes = ("length", "unknown", "punctuation", "other")
    limits = [found.pop(f"unreachable_{cause}") for cause in causes]
    assert found.pop("reachable") + sum(limits) == pytest.approx(1)
    assert 0 <= found.pop("changed_case") <= 1
    assert found == pytest.approx(summary["final"], rel=1e-5)


def test_recall_in_groups_counts_sentences_of_a_kind(trained, capsys, tmp_path):
    lines = ["A dog runs.", "A dog runs.", "Two red cars.", "Two red cars."]
    (tmp_path / "pairs.txt").write_text("\n".join(lines))
    data = EvaluateData(val=str(tmp_path / "pairs.txt"))
    found = table(capsys, run=str(trained[0]), data=data, groups=2)
    assert found["group_recall_at_1"] == 1.0
    with pytest.raises(InputError, match="divide the 4 sentences, got 3"):
        table(capsys, run=str(trained[0]), data=data, groups=3)


def test_figures_after_corrections_are_those_of_the_decoded_texts(trained, capsys):
    folder = trained[0]
    found = table(capsys, run=str(folder), corrections=[2, 0], samples=2)
    assert found["corrections_0"].keys() == found["corrections_2"].keys()
    assert found["corrections_2"]["cosine"] >= found["corrections_0"]["cosine"]
    codec = load(folder)
    config, objectives = codec.config, build_objectives(codec.config)
    held_out, embed = load_held_out(config, objectives, codec.tokenizer)
    for number in (0, 2):
        texts = codec.decode(
            held_out.targets, corrections=number, samples=2, embedder="teacher"
        )
        figures = found[f"corrections_{number}"]
        assert figures.pop("sentences_per_second") > 0
        again = cosine_rows(embed(texts), held_out.targets).mean()
        assert figures["cosine"] == pytest.approx(again, abs=1e-5)
        expected = decoding_metrics(texts, held_out.texts)
        assert {k: figures[k] for k in expected} == pytest.approx(expected)
        lengths = figures["length"].values()
        assert sum(own["sentences"] for own in lengths) == len(texts)
        mean = sum(own["sentences"] * own["exact"] for own in lengths) / len(texts)
        assert figures["exact"] == pytest.approx(mean)


def test_figures_are_those_of_texts_that_beams_wrote(trained, capsys):
    folder = trained[0]
    found = table(capsys, run=str(folder), corrections=0, beams=4)["corrections_0"]
    codec = load(folder)
    objectives = build_objectives(codec.config)
    held_out, _ = load_held_out(codec.config, objectives, codec.tokenizer)
    texts, greedy = (codec.decode(held_out.targets, beams=n) for n in (4, 1))
    assert texts != greedy
    expected = decoding_metrics(texts, held_out.texts)
    assert {k: found[k] for k in expected} == pytest.approx(expected)


def test_edits_are_those_of_the_last_number_of_corrections(trained, capsys):
    given = {"run": str(trained[0]), "corrections": [0, 1], "samples": 2}
    plain, edited = table(capsys, **given), table(capsys, edits=3, **given)
    first, last = "corrections_0", "corrections_1"
    assert edited[first]["cosine"] == plain[first]["cosine"]
    assert edited[last]["cosine"] > plain[last]["cosine"]


@pytest.mark.parametrize(
    "given",
    [
        {"samples": 3},
        {"beams": 3},
        {"edits": 3},
        {"embedder": "student"},
        {"sources": "a.src"},
        {"vectors": "student"},
    ],
    ids=lambda given: next(iter(given)),
)
def test_what_says_how_corrections_are_measured_wants_some(given, trained, capsys):
    ((name, value),) = given.items()
    said = f"{name} must be left out without corrections, got {value}"
    with pytest.raises(InputError, match=said):
        table(capsys, run=str(trained[0]), **given)


def test_batch_size_says_how_many_rows_are_corrected_together(
    trained, capsys, monkeypatch
):
    sizes, rounds = [], Rounds.__call__

    def counted(self, z, *rest):
        sizes.append(len(z))
        return rounds(self, z, *rest)

    monkeypatch.setattr(Rounds, "__call__", counted)
    given = {"run": str(trained[0]), "corrections": 1, "decode_samples": 5}
    table(capsys, batch_size=2, **given)
    assert sizes == [2, 2, 1]


def test_how_many_sentences_are_corrected_is_shown(trained, capsys):
    given = {"run": str(trained[0]), "corrections": [0, 1], "decode_samples": 5}
    evaluate(EvaluateArgs(batch_size=2, **given))
    shown = [x for x in capsys.readouterr().out.splitlines() if x[:11] == "correcting "]
    assert [line.split()[1] for line in shown] == ["0/5", "2/5", "4/5", "5/5"]


def test_the_students_own_vectors_are_decoded_where_asked(trained, capsys):
    given = {"run": str(trained[0]), "corrections": 0, "decode_samples": 2}
    found = table(capsys, vectors="student", embedder="student", **given)
    codec = load(trained[0])
    objectives = build_objectives(codec.config)
    held_out, _ = load_held_out(codec.config, objectives, codec.tokenizer)
    sample = held_out.spread(2)
    own = codec.encode(sample.texts)
    again = cosine_rows(codec.encode(codec.decode(own)), own).mean()
    assert found["corrections_0"]["cosine"] == pytest.approx(again, abs=1e-5)
    with pytest.raises(InputError, match="vectors must be one of teacher, student"):
        table(capsys, vectors="mine", **given)


@pytest.mark.parametrize("given", [[-1], "many", [0, 1.5], [True]])
def test_numbers_of_corrections_are_checked(trained, capsys, given):
    with pytest.raises(InputError, match=r"corrections must be numbers >= 0, such as"):
        table(capsys, run=str(trained[0]), corrections=given)


def test_what_the_vocabulary_cannot_write_is_not_reachable(trained, capsys, tmp_path):
    (tmp_path / "val.txt").write_text("A dog runs.\n\u5149 \u222e qz.\n")
    data = EvaluateData(val=str(tmp_path / "val.txt"))
    found = table(capsys, run=str(trained[0]), data=data)
    assert found["reachable"] == 0.5 == found["unreachable_unknown"]
    assert found["changed_case"] == 0.5


def test_what_is_not_exact_is_stored_before_and_after_and_by_source(
    trained, capsys, tmp_path
):
    texts = ["A dog runs.", "A cat sleeps.", "Two cars.", "A dog sits."]
    (tmp_path / "val.txt").write_text("\n".join(texts))
    (tmp_path / "val.src").write_text("x\ny\nx\nx\n")
    data, sources = EvaluateData(val=str(tmp_path / "val.txt")), tmp_path / "val.src"
    given = {"run": str(trained[0]), "data": data, "corrections": [0, 1]}
    printed = table(capsys, sources=str(sources), **given)
    source = printed["corrections_1"]["source"]
    assert {name: own["sentences"] for name, own in source.items()} == {"x": 3, "y": 1}
    told = stored(trained[0])["details"]["failures"]
    two = table(capsys, sources=str(sources), decode_samples=2, **given)
    assert two["corrections_1"]["source"]["x"]["sentences"] == 2  # the first, the last
    found = told["worst"]
    assert (
        told["wrong"]
        == len(found)
        == round(4 * (1 - printed["corrections_1"]["exact"]))
        > 0
    )
    for failure in found:
        assert failure["sentence"] in texts
        before, after = failure["written"]
        assert after["cosine"] >= before["cosine"]
        assert (before["corrections"], after["corrections"]) == (0, 1)


def test_several_sts_sets_have_a_mean(trained, capsys, tmp_path):
    """Two sets that people judged otherwise."""
    pairs = ["A dog runs.\tA dog is running.", "A cat.\tTwo cars.", "Snow.\tA man."]
    for name, scores in (("a", (5, 1, 0)), ("b", (0, 5, 1))):
        lines = [f"{score}\t{pair}" for score, pair in zip(scores, pairs, strict=True)]
        (tmp_path / f"{name}.tsv").write_text("\n".join(lines))
    paths = [str(tmp_path / f"{name}.tsv") for name in ("a", "b")]
    found = table(capsys, run=str(trained[0]), sts=paths)
    assert len({*found["spearman"].values()}) == 2
    assert found["spearman_mean"] == pytest.approx(
        np.mean([*found["spearman"].values()])
    )
    assert "spearman_mean" not in table(capsys, run=str(trained[0]), sts=paths[0])


def stored(folder):
    return RunFolder(folder).read_evaluation()


def test_confused_sentences_are_stored_and_not_printed(trained, capsys, tmp_path):
    texts = ["A dog runs.", "A cat sleeps.", "Two cars.", "A dog sits."]
    (tmp_path / "val.txt").write_text("\n".join(texts))
    data = EvaluateData(val=str(tmp_path / "val.txt"))
    printed = table(capsys, run=str(trained[0]), data=data)
    assert "details" not in printed
    kept = stored(trained[0])
    found = kept.pop("details")["retrieval"]
    assert kept == printed and found["sentences"] == 4
    assert found["confused"] == round(4 * (1 - printed["p_at_1"]))
    assert len(found["worst"]) == found["confused"] > 0
    for pair in found["worst"]:
        assert {pair["sentence"], pair["nearest"]} <= set(texts)
        assert pair["sentence"] != pair["nearest"]
        assert pair["nearest_cosine"] >= pair["own_cosine"]


def test_every_sts_pair_is_stored_with_its_score_and_cosine(trained, capsys, tmp_path):
    pairs = [(5.0, "A dog runs.", "A dog is running."), (1.0, "A cat.", "Two cars.")]
    pairs.append((0.0, "A man eats.", "Snow falls on a house."))
    lines = ["\t".join(map(str, pair)) for pair in pairs]
    (tmp_path / "set.tsv").write_text("\n".join(lines))
    printed = table(capsys, run=str(trained[0]), sts=str(tmp_path / "set.tsv"))
    points = stored(trained[0])["details"]["sts"]["set"]
    codec = load(trained[0])
    first, second = (codec.encode([pair[n] for pair in pairs]) for n in (1, 2))
    assert points["score"] == [5.0, 1.0, 0.0]
    assert points["cosine"] == pytest.approx(cosine_rows(first, second), abs=1e-5)
    assert printed["spearman"]["set"] == pytest.approx(
        100 * spearman(np.array(points["cosine"]), np.array(points["score"]))
    )
