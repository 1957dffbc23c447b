"""A run that starts from another takes its weights, token by token."""

import json

import numpy as np
import pytest

from energyflow_mlx.build.codec import load
from energyflow_mlx.build.model import build_model
from energyflow_mlx.build.objectives import build_objectives, parts_of
from energyflow_mlx.build.run import run
from energyflow_mlx.build.start import start_from
from energyflow_mlx.config import (
    FlowConfig,
    FlowTextConfig,
    ReconstructionConfig,
    SurfaceConfig,
)
from energyflow_mlx.data.captions.generate import generate_captions
from energyflow_mlx.errors import InputError
from energyflow_mlx.model import flat_parameters
from energyflow_mlx.runs.folder import RunFolder
from energyflow_mlx.runs.metrics import read_metrics
from energyflow_mlx.text.tokenizer import Tokenizer
from tests.build.tiny import make_lattice
from tests.training.small import make_config, objectives

NEW = generate_captions(400, 9)[200:]


def small(folder, changes=None):
    return make_config(
        {
            **{"data.captions": 120, "data.buckets": [16, 32], "data.max_length": 32},
            **{"trainer.max_steps": 4, "trainer.micro_batch": 16},
            **{"trainer.decode_samples": 2, "trainer.compile": False},
            **{"run.dir": str(folder)},
            **(changes or {}),
        }
    )


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Folder of a run of four updates."""
    folder = tmp_path_factory.mktemp("other") / "run"
    run(small(folder))
    return folder


def fresh(other, changes=None, texts=NEW):
    """A fresh model with a vocabulary of its own, and what it took over."""
    config = small(other, changes)
    old = load(other)
    tokenizer = Tokenizer.from_source(
        RunFolder(other).tokenizer / "tokenizer.json", texts
    )
    parts = parts_of(build_objectives(config))
    model = build_model(config, parts, tokenizer.vocab_size, 384)
    before = flat_parameters(model)
    start = start_from(str(other), model, tokenizer, 384)
    return old, tokenizer, flat_parameters(model), before, start


def test_weights_are_taken_and_rows_follow_their_tokens(other):
    old, tokenizer, now, before, start = fresh(other)
    was = flat_parameters(old.model)
    place = {token: i for i, token in enumerate(old.tokenizer.tokens)}
    tables = {n for n in now if now[n].shape != was[n].shape}
    assert tables == {
        *("encoder.embedding.weight", "decoder.embedding.weight"),
        *("decoder.output.weight", "decoder.output.bias"),
    }
    for name in now.keys() - tables:
        np.testing.assert_array_equal(now[name], was[name], err_msg=name)
    for name in tables:
        table, former = np.array(now[name]), np.array(was[name])
        for i, token in enumerate(tokenizer.tokens):
            if token in place:
                np.testing.assert_array_equal(table[i], former[place[token]])
    known = sum(token in place for token in tokenizer.tokens)
    assert (start.tokens, start.new_tokens) == (known, tokenizer.vocab_size - known)
    assert start.new_tokens > 0 and start.fresh == frozenset()
    assert start.step == 4 and start.trained == {"encoder", "decoder", "shared"}


def test_a_new_token_starts_as_the_mean_of_what_spelt_it(other):
    old, tokenizer, now, _, _ = fresh(other)
    new = [
        t
        for t in tokenizer.tokens
        if t.isalpha() and t.isascii() and t not in set(old.tokenizer.tokens)
    ]
    former = np.array(flat_parameters(old.model)["encoder.embedding.weight"])
    table = np.array(now["encoder.embedding.weight"])
    for token in new[:5]:
        (ids,) = old.tokenizer.encode([token], 64)
        expected = former[ids[1:-1]].mean(axis=0)
        row = table[tokenizer.tokens.index(token)]
        np.testing.assert_allclose(row, expected, atol=1e-6)
    assert new


def test_a_part_that_the_other_run_lacks_starts_anew(other, tmp_path):
    config = small(tmp_path / "distilled", {"share": "none"})
    config.objectives.reconstruction = None
    run(config)
    changes = {"share": "none"}
    _, _, now, before, start = fresh(tmp_path / "distilled", changes)
    assert start.trained == {"encoder"} and start.fresh == {"decoder"}
    for name in now:
        same = np.array_equal(now[name], before[name])
        assert same is name.startswith("decoder."), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder.hidden": 20, "decoder.hidden": 20}, r"init=.*conv1.* must be float"),
        ({"share": "none"}, r"init=.*got missing decoder\.blocks\.1"),
    ],
)
def test_shapes_that_do_not_fit_are_refused_by_name(other, changes, message):
    with pytest.raises(InputError, match=message):
        fresh(other, changes)


def test_vectors_of_another_size_are_refused(other):
    tokenizer = load(other).tokenizer
    model = build_model(small(other), {"encoder"}, tokenizer.vocab_size, 12)
    with pytest.raises(InputError, match="must give vectors of 12 numbers .* got 384"):
        start_from(str(other), model, tokenizer, 12)


def test_a_run_without_the_parts_that_are_wanted_is_refused(other, tmp_path):
    config = small(tmp_path / "distilled", {"share": "none", "trainer.max_steps": 1})
    config.objectives.reconstruction = None
    run(config)
    tokenizer = load(tmp_path / "distilled").tokenizer
    model = build_model(small(other), {"decoder"}, tokenizer.vocab_size, 384)
    with pytest.raises(InputError, match="must have trained decoder.* got encoder, sh"):
        start_from(str(tmp_path / "distilled"), model, tokenizer, 384)


def test_a_run_records_what_it_started_from_and_resumes_without_it(other, tmp_path):
    """The first checkpoint is its own; the other run may be gone by then."""
    gone = tmp_path / "gone"
    gone.symlink_to(other)
    config = small(tmp_path / "tuned", {"init": str(gone), "seed": 3})
    config.objectives.distillation = None
    config.trainer.best_metric = "ce"
    summary = run(config)
    assert summary["init"]["run"] == str(gone) and summary["init"]["step"] == 4
    saved = json.loads((tmp_path / "tuned" / "summary.json").read_text())
    assert saved["init"] == summary["init"]
    assert RunFolder(tmp_path / "tuned").read_config().init == str(gone)
    gone.unlink()
    config.trainer.max_steps = 6
    assert run(config)["steps"] == 6
    assert load(tmp_path / "tuned").record.trained == {"decoder", "shared"}


def through_lattice(folder, changes, **members):
    config = small(folder, {"share": "none", "trainer.max_steps": 1} | changes)
    config.lattice, config.objectives = make_lattice(), objectives(**members)
    for settings in members.values():
        settings.lr = 1e-3
    return config


def test_an_encoder_that_is_to_read_must_have_been_trained(other, tmp_path):
    """What a decoder writes is read by an encoder of this run or of the other one."""
    writer = small(tmp_path / "writer", {"share": "none", "trainer.max_steps": 1})
    writer.objectives.distillation, writer.trainer.best_metric = None, "ce"
    run(writer)
    changes = {"objectives.reconstruction.cycle": 0.3, "trainer.max_steps": 2}
    config = small(tmp_path / "read", changes | {"init": str(tmp_path / "writer")})
    config.objectives.distillation, config.trainer.best_metric = None, "ce"
    config.share = "none"
    with pytest.raises(InputError, match="cycle must be 0, because no obj"):
        run(config)
    assert not (tmp_path / "read").exists()
    config.init, config.share = str(other), "last"
    run(config)
    log = read_metrics(tmp_path / "read" / "metrics.jsonl")
    assert [r["cycle_cosine"] for r in log if r["kind"] == "train"]
    assert load(tmp_path / "read").encode(NEW[:2]).shape == (2, 384)


def test_an_encoder_that_embeds_own_pairs_must_be_trained(tmp_path):
    """Here the encoder is there, but only as what the mapper is fitted to."""
    changes = {"data.own_pairs.share": 0.5, "data.own_pairs.embedder": "student"}
    members = {
        "surface": SurfaceConfig(learns="mapper"),
        "reconstruction": ReconstructionConfig(),
    }
    config = through_lattice(tmp_path / "run", changes, **members)
    config.trainer.best_metric = "ce"
    with pytest.raises(InputError, match="own_pairs.embedder must be teacher, because"):
        run(config)
    assert not (tmp_path / "run").exists()


def test_what_another_run_trained_stays_on_record(tmp_path):
    """Text through the lattice leaves its mapper as the vectors' run trained it."""
    run(through_lattice(tmp_path / "flow", {}, flow=FlowConfig()))
    members = {"flow_text": FlowTextConfig()}
    changes = {"init": str(tmp_path / "flow")}
    run(through_lattice(tmp_path / "text", changes, **members))
    codec = load(tmp_path / "text")
    assert codec.transform(np.eye(384)[:1]).shape == (1, 384)
    run(through_lattice(tmp_path / "alone", {}, **members))
    with pytest.raises(InputError, match=r"lattice.mapper of this model was never tr"):
        load(tmp_path / "alone").transform(np.eye(384)[:1])


def test_weights_of_the_start_decide_those_of_the_end(other, tmp_path):
    """A rate so small that nothing moves: the run ends with what it took over."""
    config = small(tmp_path / "still", {"init": str(other), "trainer.max_steps": 1})
    config.optimizer.min_lr = 0.0
    for objective in (config.objectives.distillation, config.objectives.reconstruction):
        objective.lr = 1e-12
    run(config)
    text = ["A dog runs on the beach."]
    ours, theirs = load(tmp_path / "still").encode(text), load(other).encode(text)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
