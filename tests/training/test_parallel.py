"""Two processes train as one does with twice the batch: curve, weights, resuming."""

import json
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.errors import InputError
from energyflow_mlx.evaluation.held_out import HeldOut
from energyflow_mlx.runs.metrics import read_metrics
from energyflow_mlx.runtime import distributed
from energyflow_mlx.runtime.distributed import Group
from energyflow_mlx.training.feed import Feed, RunData
from tests.build.tiny import SENTENCES, E, teacher_vectors, tokenizer
from tests.processes import call
from tests.training.small import make_config, make_trainer

STEPS = 6
# What a run of two processes changes, and what makes one process its equal.
RANDOM = {"encoder.dropout": 0.1, "encoder.token_dropout": 0.1}
RUNS = {
    "plain": ({}, {"trainer.micro_batch": 8}),
    "candidates": ({"token_rows.candidates": 60}, {"trainer.micro_batch": 8}),
    "dense": ({"token_rows.lazy": False}, {"trainer.micro_batch": 8}),
    "random": (RANDOM, {"trainer.accumulate": 2}),
    "contrastive": (
        {"objectives.distillation.contrastive": 0.5},
        {"trainer.accumulate": 2},
    ),
    "accumulated": ({**RANDOM, "trainer.accumulate": 2}, {"trainer.accumulate": 4}),
    "averaged": ({"trainer.ema": 0.9}, {"trainer.micro_batch": 8}),
    "scaled": ({"precision.dtype": "float16"}, {"trainer.micro_batch": 8}),
}
COMPILED = {"trainer.compile": True}


def tiny_config(*changes):
    config = make_config({"data.max_length": 32, "data.buckets": [16, 32]})
    settings = {
        "trainer.micro_batch": 4,
        "trainer.max_steps": STEPS,
        "trainer.log_every": 1,
        "trainer.validate_every": 2,
        "trainer.compile": False,
        "trainer.keep": 9,
        "optimizer.warmup_steps": 0,
        "share": "none",
    }
    for given in (settings, *changes):
        make_changes(config, given)
    config.__post_init__()  # rates of objectives that the changes brought
    return config


def make_changes(config, changes):
    for key, value in changes.items():
        *groups, name = key.split(".")
        place = config
        for group in groups:
            place = getattr(place, group)
        assert hasattr(place, name), key
        setattr(place, name, value)


def tiny_data():
    words = tokenizer()
    ids, vectors = words.encode(SENTENCES, 32), teacher_vectors(SENTENCES)
    return RunData(
        tokenizer=words,
        train_ids=ids,
        train_targets=vectors,
        held_out=HeldOut(SENTENCES, ids, vectors),
        word_embeddings=None,
        dimension=E,
        source="tiny",
        teacher="tiny",
        embed=None,
    )


def weights(trainer):
    return {k: np.array(a) for k, a in trainer.stepper.state.arrays().items()}


def train_alone(folder, *changes):
    """A finished trainer of one process."""
    mx.random.seed(0)
    trainer = make_trainer(tiny_config(*changes), tiny_data(), folder)
    trainer.run()
    return trainer


def train_all(folder, *names):
    """Runs in each process: runs of the table, weights saved by rank."""
    group, folder = distributed.join(), Path(folder)
    for name in names:
        changes = COMPILED if name == "compiled" else RUNS[name][0]
        mx.random.seed(group.rank)  # the first process's weights are everybody's
        config = tiny_config(changes)
        trainer = make_trainer(config, tiny_data(), folder / name, group)
        trainer.run()
        np.savez(folder / f"{name}.{group.rank}.npz", **weights(trainer))
        sys.stdout.write(json.dumps(trainer.progress.to_json()) + "\n")


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("both")
    return folder, call(train_all, 2, folder, folder, *RUNS)


def curve(folder):
    """What the records of training and validation say, but for time."""
    records = read_metrics(folder / "metrics.jsonl")
    records = [r for r in records if r["kind"] in ("train", "validation")]
    drop = {"seconds", "samples_per_second"}
    return [{k: v for k, v in r.items() if k not in drop} for r in records]


def assert_same_curve(found, wanted, tolerance=1e-5):
    assert len(found) == len(wanted) > STEPS
    for one, other in zip(found, wanted, strict=True):
        assert one.pop("kind") == other.pop("kind")
        assert one == pytest.approx(other, rel=tolerance, abs=tolerance)


def assert_same_weights(found, wanted, tolerance=1e-5):
    assert set(found) == set(wanted)
    for path in wanted:
        np.testing.assert_allclose(
            found[path], wanted[path], atol=tolerance, rtol=tolerance, err_msg=path
        )


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_equal_one_with_the_doubled_batch(name, both, tmp_path):
    folder, _ = both
    changes, doubled = RUNS[name]
    alone = train_alone(tmp_path, changes, doubled)
    tolerance = 1e-3 if name == "scaled" else 1e-5
    assert_same_curve(curve(folder / name), curve(tmp_path), tolerance)
    found = np.load(folder / f"{name}.0.npz")
    assert_same_weights(found, weights(alone), tolerance)


@pytest.mark.slow
def test_so_it_is_with_the_sum_inside_a_compiled_update(tmp_path):
    call(train_all, 2, tmp_path, tmp_path, "compiled", compiles=True)
    alone = train_alone(tmp_path / "alone", COMPILED, {"trainer.micro_batch": 8})
    assert_same_curve(curve(tmp_path / "compiled"), curve(tmp_path / "alone"))
    for rank in (0, 1):
        found = np.load(tmp_path / f"compiled.{rank}.npz")
        assert_same_weights(found, weights(alone))


@pytest.mark.parametrize("name", RUNS)
def test_both_processes_end_with_the_same_bits(name, both):
    folder, _ = both
    first, second = (np.load(folder / f"{name}.{rank}.npz") for rank in (0, 1))
    assert {k: first[k].tobytes() for k in first} == {
        k: second[k].tobytes() for k in second
    }


def test_both_processes_know_the_same_progress(both):
    _, outputs = both
    first, second = ([json.loads(line) for line in o.splitlines()] for o, _ in outputs)
    for one, other in zip(first, second, strict=True):
        one.pop("seconds"), other.pop("seconds")
        assert one == other
        assert one["samples"] == one["step"] * (
            16 if one is first[list(RUNS).index("accumulated")] else 8
        )


def test_one_process_resumes_what_two_began(both, tmp_path):
    """The checkpoint of update 4 of two processes, gone on from with one."""
    folder, _ = both
    source = folder / "plain"
    name = "step_00000004"
    (tmp_path / "checkpoints").mkdir()
    (source / "checkpoints" / name).rename(tmp_path / "checkpoints" / name)
    log = (source / "metrics.jsonl").read_bytes()
    (tmp_path / "metrics.jsonl").write_bytes(log)
    resumed = train_alone(tmp_path, RUNS["plain"][1])
    assert_same_curve(curve(tmp_path), curve(source))
    assert_same_weights(np.load(folder / "plain.0.npz"), weights(resumed))


def go_on(folder):
    """Runs in each process: only the first one's folder has the checkpoint."""
    group = distributed.join()
    own = Path(folder) if group.is_writer else Path(folder) / "elsewhere"
    trainer = make_trainer(tiny_config(), tiny_data(), own, group)
    assert trainer.progress.step == 4
    trainer.run()
    np.savez(Path(folder) / f"{group.rank}.npz", **weights(trainer))
    assert not own.name == "elsewhere" or not own.exists()


def test_two_processes_resume_what_one_began(tmp_path):
    whole = train_alone(tmp_path / "whole", RUNS["plain"][1])
    folder = tmp_path / "resumed"
    (folder / "checkpoints").mkdir(parents=True)
    name = Path("checkpoints") / "step_00000004"
    (tmp_path / "whole" / name).rename(folder / name)
    call(go_on, 2, folder, folder)
    for rank in (0, 1):
        assert_same_weights(np.load(folder / f"{rank}.npz"), weights(whole))


def test_another_size_of_update_is_refused(tmp_path):
    train_alone(tmp_path)
    with pytest.raises(InputError, match="must have 4 sentences, got 8 = "):
        train_alone(tmp_path, {"trainer.micro_batch": 8})


@pytest.mark.parametrize(("size", "accumulate"), [(2, 1), (3, 2)])
def test_processes_share_out_every_update(size, accumulate):
    """Parts are disjoint and cover the batch; rows are those of the whole batch."""
    changes = {"trainer.micro_batch": 2, "trainer.accumulate": accumulate}
    config, data = tiny_config(changes), tiny_data()
    feeds = [Feed(data, config, Group(rank, size)) for rank in range(size)]
    (_, batch) = next(feeds[0]._batcher.batches(0))
    parts = [next(feed.updates(0)) for feed in feeds]
    assert [len(part) for part in parts] == [accumulate] * size
    micro = [np.array(m.ids) for part in parts for m in part]
    np.testing.assert_array_equal(np.concatenate(micro), batch.ids)
    occurs = {tuple(np.array(m.rows.occurs)) for part in parts for m in part}
    tokens = [m.rows.tokens for part in parts for m in part]
    first = np.arange(len(*occurs)) if tokens[0] is None else np.array(tokens[0])
    assert all((t is None) == (tokens[0] is None) for t in tokens)
    assert len(occurs) == 1 and set(batch.ids.ravel()) <= set(first)
