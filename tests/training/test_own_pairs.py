"""Own pairs: what is kept, whose updates they make, and the same bits after a kill."""

import json
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.build.data import load_run_data
from energyflow_mlx.build.objectives import build_objectives
from energyflow_mlx.config import ReconstructionConfig, config_from_json
from energyflow_mlx.errors import InputError
from energyflow_mlx.runs import checkpoint
from energyflow_mlx.runs.metrics import read_metrics
from energyflow_mlx.training.divergence import Diverged
from energyflow_mlx.training.random_keys import host_seed
from tests.training.small import (
    make_config,
    make_trainer,
    objectives,
    quiet_display,
    set_key,
)

B = "reconstruction"
SIZES = {
    "data.captions": 240,
    "data.max_length": 32,
    "data.val_limit": 0,
    "trainer.micro_batch": 16,
    "trainer.log_every": 1,
    "trainer.decode_samples": 0,
    "trainer.follow_samples": 0,
    "trainer.max_steps": 24,
    "trainer.validate_every": 12,
    "trainer.keep": 9,
    "data.own_pairs.share": 0.5,
    "data.own_pairs.every": 8,
    "data.own_pairs.count": 96,
    "data.own_pairs.temperature": 0.3,
}


def tiny(cache, **changes):
    config = make_config(SIZES)
    config.data.buckets = [32]  # what an untrained decoder writes is long
    config.teacher.cache_dir = str(cache)
    for key, value in changes.items():
        set_key(config, key.replace("__", "."), value)
    config.data.__post_init__(), config.data.own_pairs.__post_init__()
    return config


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def data(cache):
    config = tiny(cache)
    return load_run_data(config, build_objectives(config), None, quiet_display())


@pytest.fixture
def made(cache, data, tmp_path):
    """A trainer that has made pairs once."""
    trainer = make_trainer(tiny(cache), data, tmp_path)
    make(trainer)
    return trainer


def pairs_of(trainer):
    """What makes a trainer's pairs."""
    (maker,) = trainer.updates._makers
    return maker


def make(trainer):
    """Make pairs as before update 8."""
    with trainer.validation.kept_weights():
        pairs_of(trainer).make(8)


def held(trainer):
    """Ids and vectors of the pairs that a trainer holds."""
    arrays = pairs_of(trainer).ring.arrays()
    rows = zip(arrays["ids"], arrays["lengths"], strict=True)
    return [ids[:n].astype(np.int32) for ids, n in rows], arrays["vectors"]


def forget(ring):
    """Empty a ring."""
    ring.restore({name: array[:0] for name, array in ring.arrays().items()}, 0)


def spoken(trainer, vectors, seed):
    """What ``decode`` writes of vectors, as the pairs are sampled."""
    config, own = trainer.config, trainer.config.data.own_pairs
    longest = max(map(len, trainer.data.train_ids))
    assert config.data.max_length >= longest
    return trainer.codec.decode(
        vectors, max_length=longest, temperature=own.temperature, seed=seed
    )


def test_a_pair_is_a_sampled_sentence_and_the_teachers_vector_of_its_text(made):
    ids, vectors = held(made)
    texts = made.codec.tokenizer.decode(ids)
    again = made.codec.tokenizer.encode(texts, 99)
    same = [np.array_equal(a, b) for a, b in zip(ids, again, strict=True)]
    assert np.mean(same) > 0.9  # a text's spelling may have several tokenizations
    kept = [i for i, is_same in enumerate(same) if is_same]
    truth = made.data.embed([texts[i] for i in kept])
    np.testing.assert_allclose(vectors[kept], truth, atol=2e-3)


def test_sentences_are_sampled_from_the_decoder_as_it_is(made):
    seed = host_seed(made.config.seed, 8, 0)
    random = np.random.Generator(np.random.PCG64(seed))
    texts = spoken(made, pairs_of(made)._vectors(random), seed)
    spelt = {row.tobytes() for row in made.codec.tokenizer.encode(texts, 99)}
    ids, _ = held(made)
    assert len(ids) > 10 and {row.tobytes() for row in ids} <= spelt


def test_held_out_repeated_short_and_unended_sentences_are_left_out(made, monkeypatch):
    tokenizer, data = made.codec.tokenizer, made.data
    longest = max(map(len, data.train_ids))
    texts = [
        *(data.held_out.texts[0], "a dog runs.", "a dog runs.", "dog", ""),
        *("a " * (longest + 5), "two cats sleep."),
    ]
    forget(pairs_of(made).ring)
    monkeypatch.setattr(made.codec, "decode", lambda *_, **__: texts)
    make(made)
    ids, _ = held(made)
    assert tokenizer.decode(ids) == ["a dog runs.", "two cats sleep."]


def test_sampled_vectors_are_perturbed_interpolated_and_of_unit_length(made):
    own, targets = pairs_of(made), made.data.train_targets

    def nearest(**settings):
        for name, value in settings.items():
            setattr(own._settings, name, value)
        z = own._vectors(np.random.default_rng(0))
        np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1, atol=1e-5)
        return (z @ targets.T).max(axis=1)

    np.testing.assert_allclose(nearest(noise=0.0, interpolate=0.0), 1, atol=1e-5)
    noisy = nearest(noise=0.5, interpolate=0.0)
    np.testing.assert_allclose(noisy, 1 / np.sqrt(1.25), atol=0.08)
    between = nearest(noise=0.0, interpolate=1.0)
    assert between.min() > 0.6 and np.median(between) < 0.97


def test_own_pairs_are_sampled_near_the_sentences_that_are_meant(cache, data, tmp_path):
    near = np.array([3, 50, 7])
    trainer = make_trainer(tiny(cache), replace(data, sampled_near=near), tmp_path)
    own, targets = pairs_of(trainer), data.train_targets
    own._settings.noise = own._settings.interpolate = 0.0
    z = own._vectors(np.random.default_rng(0))
    assert set((z @ targets.T).argmax(axis=1)) == set(near)


def test_own_pairs_make_their_share_of_the_reconstruction_updates_only(
    cache, data, tmp_path
):
    """Of the shape that the sentences had; ids, vectors and targets belong together."""
    config = tiny(cache, data__buckets=[12, 16, 32])
    trainer = make_trainer(config, data, tmp_path)
    own, feed = pairs_of(trainer), trainer.feed.updates(0)
    assert (
        trainer.updates._in_place_of([update := next(feed)[0]], 1)[0] is update
    )  # none yet
    own.ring.add(data.train_ids, data.train_targets + 1)
    vector_of = dict(zip(map(bytes, data.train_ids), data.train_targets, strict=True))
    turns = {True: [], False: []}
    for step in range(1, 25):
        (plain,) = update = next(feed)
        (found,) = trainer.updates._in_place_of(update, step)
        if trainer.alternation.objective_of(step) != B:
            assert found is plain
            continue
        turns[found is not plain].append(step)
        if found is plain:
            continue
        assert found.ids.shape == plain.ids.shape
        ids, mask = np.array(found.ids), np.array(found.mask) > 0
        for row, is_token, vector in zip(ids, mask, found.target, strict=True):
            truth = vector_of[bytes(row[is_token])]
            np.testing.assert_allclose(np.array(vector), truth + 1, atol=2e-3)
        real = np.array(found.targets.count) > 0
        assert (np.array(found.targets.token)[real] == ids[:, 1:][mask[:, 1:]]).all()
    feed.close()
    assert [len(turns[is_own]) for is_own in (True, False)] == [6, 6]
    assert set(np.diff(sorted(turns[True]))) == {4}
    assert own.tally.updates == 6


def test_pairs_of_usual_lengths_bring_no_new_shape(cache, data, tmp_path):
    traces = []
    for share in (0.0, 0.5):
        config = tiny(cache, data__buckets=[16, 32], data__own_pairs__share=share)
        config.data.own_pairs.every = 1000
        trainer = make_trainer(config, data, tmp_path / str(share))
        if share:
            pairs_of(trainer).ring.add(data.train_ids, data.train_targets)
        trainer.run()
        assert not share or pairs_of(trainer).tally.updates
        traces.append(trainer.stepper.traces)
    assert traces[0] == traces[1]


def test_pairs_are_made_from_the_weights_that_are_measured(cache, data, tmp_path):
    """With averaged weights, these; and training goes on in training mode."""
    trainer = make_trainer(tiny(cache, trainer__ema=0.9), data, tmp_path)
    seen = []
    decode = trainer.codec.decode

    def spy(vectors, **settings):
        seen.append(np.array(trainer.codec.model.decoder.output.weight))
        seen.append(trainer.codec.model.training)
        return decode(vectors, **settings)

    trainer.codec.decode = spy
    trainer.run()
    assert len(seen) == 4 and not seen[1]
    kept = checkpoint.load(checkpoint.folder_of(tmp_path / "checkpoints", 12))[0]
    averaged, own = (
        np.array(kept[f"{kind}.decoder.output.weight"]) for kind in ("model", "trained")
    )
    assert not np.array_equal(averaged, own)
    assert np.abs(seen[0] - averaged).max() < np.abs(seen[0] - own).max()
    assert trainer.codec.model.training


def test_the_students_own_vectors_need_no_teacher(cache, data, tmp_path, monkeypatch):
    config = tiny(cache, data__own_pairs__embedder="student")
    trainer = make_trainer(config, data, tmp_path)
    monkeypatch.setattr(trainer.data, "embed", None)
    make(trainer)
    ids, vectors = held(trainer)
    own = trainer.codec.encode_ids(ids, normalize=True)
    np.testing.assert_allclose(vectors, own, atol=2e-3)


def test_a_vector_of_zeros_makes_no_pair(made, monkeypatch):
    def embed(texts):
        return np.array([[0.0] * 384 if "a" in t else [1.0] * 384 for t in texts])

    monkeypatch.setattr(made.data, "embed", embed)
    forget(pairs_of(made).ring)
    texts = ["a dog runs.", "two mice sing."]
    monkeypatch.setattr(made.codec, "decode", lambda *_, **__: texts)
    make(made)
    assert made.codec.tokenizer.decode(held(made)[0]) == ["two mice sing."]


# A run ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(cache, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    trainer = make_trainer(tiny(cache), data, folder)
    return trainer, trainer.run(), folder


def records(folder, kind):
    return [r for r in read_metrics(folder / "metrics.jsonl") if r["kind"] == kind]


def test_a_run_says_what_was_made_used_and_how_long_it_took(whole):
    trainer, summary, folder = whole
    made = summary["own_pairs"]
    assert made["sampled"] == 2 * 96 and 0 < made["kept"] <= made["sampled"]
    assert made["updates"] > 0
    assert 0 < made["seconds"] < summary["seconds"]
    rows = records(folder, "timing")
    for name, value in made.items():
        assert sum(r[f"own_pairs_{name}"] for r in rows) == pytest.approx(value)
    assert rows[-1]["own_pairs_held"] == len(pairs_of(trainer).ring) == made["kept"]
    assert [r["step"] for r in rows if r["own_pairs_sampled"]] == [9, 17]


def test_pairs_are_made_every_so_many_updates_from_the_start_on(cache, data, tmp_path):
    trainer = make_trainer(tiny(cache, data__own_pairs__start=12), data, tmp_path)
    due = [step for step in range(40) if pairs_of(trainer).is_due(step)]
    assert due == [16, 24, 32]
    trainer = make_trainer(tiny(cache, data__own_pairs__start=0), data, tmp_path / "0")
    assert [step for step in range(20) if pairs_of(trainer).is_due(step)] == [8, 16]


def test_a_resumed_run_ends_with_the_same_bits(whole, cache, data, tmp_path):
    """From a checkpoint right before pairs are made, and from one in between."""
    trainer, summary, folder = whole
    (tmp_path / "checkpoints").mkdir()
    name = "checkpoints/step_00000012"
    (tmp_path / name).symlink_to(folder / name)
    resumed = make_trainer(tiny(cache), data, tmp_path)
    assert resumed.progress.step == 12 and len(pairs_of(resumed).ring) > 0
    again = resumed.run()
    for part in ("sampled", "kept", "updates"):
        assert again["own_pairs"][part] == summary["own_pairs"][part]
    one, two = (
        t.stepper.state.arrays() | t.updates.arrays() for t in (trainer, resumed)
    )
    assert one.keys() == two.keys()
    assert all(mx.array_equal(one[path], two[path]) for path in one)


def test_without_a_share_nothing_is_made_stored_or_logged(cache, data, tmp_path):
    config = tiny(cache, data__own_pairs__share=0.0, trainer__max_steps=9)
    summary = make_trainer(config, data, tmp_path).run()
    assert "own_pairs" not in summary
    assert not any("own_pairs" in key for r in records(tmp_path, "timing") for key in r)
    arrays, meta = checkpoint.load(checkpoint.latest(tmp_path / "checkpoints"))
    assert "own_pairs" not in meta
    assert not [name for name in arrays if name.startswith("own_pairs")]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("ids", lambda a: a + 30_000, r"'ids' must be ids in \[0, \d+\), got other"),
        ("lengths", lambda a: a * 0, r"'lengths' must be lengths in .*, got other"),
        ("lengths", lambda a: a + 99, r"'lengths' must be lengths in .*, got other"),
        ("vectors", lambda a: a * np.nan, "'vectors' must be finite, got other numb"),
        ("vectors", lambda a: a[1:], r"'vectors' must be float16 \[\d+, 384\], got"),
        ("vectors", lambda a: a.astype(np.float32), "must be float16 .* got float32"),
        ("ids", None, "must hold ids, lengths, vectors, got lengths, vectors"),
    ],
)
def test_pairs_of_a_checkpoint_that_nobody_here_wrote_are_refused(
    whole, cache, data, tmp_path, name, change, message
):
    """The digests fit: someone wrote them anew."""
    _, _, folder = whole
    arrays, meta = checkpoint.load(folder / "checkpoints/step_00000024")
    own = f"own_pairs.{name}"
    found = arrays.pop(own)
    if change is not None:
        arrays[own] = mx.array(change(np.array(found)))
    checkpoint.save(tmp_path / "checkpoints", 24, arrays, meta, keep=1)
    with pytest.raises(InputError, match=message):
        make_trainer(tiny(cache), data, tmp_path)


def test_an_update_of_own_pairs_that_diverges_names_their_sentences(
    whole, cache, data, tmp_path
):
    """Not those that the update would have had without them."""
    _, _, folder = whole
    (tmp_path / "checkpoints").mkdir()
    name = "checkpoints/step_00000012"
    (tmp_path / name).symlink_to(folder / name)
    trainer = make_trainer(tiny(cache), data, tmp_path)
    ring = pairs_of(trainer).ring
    ring._vectors[:] = np.nan
    with pytest.raises(Diverged, match="not finite: target"):
        trainer.run()
    (path,) = (tmp_path / "diverged").iterdir()
    told = json.loads(path.read_text())
    assert told["made_of"] == "own pairs"
    spelt = {row[:n].tobytes() for row, n in zip(ring._ids, ring._lengths, strict=True)}
    ids = [np.array(s["ids"], ring._ids.dtype) for s in told["sentences"]]
    assert ids and {row.tobytes() for row in ids} <= spelt


# Refusals ---------------------------------------------------------------------------


def alone():
    return objectives(reconstruction=ReconstructionConfig(lr=1e-3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"objectives": objectives(distillation={"x": 1}), "drop": B},
            "own_pairs.share must be 0, because distillation takes no own pairs",
        ),
        (
            {"teacher.kind": "precomputed", "data.train": ["a.npy"]},
            "embedder must be student, because teacher=precomputed cannot read a new",
        ),
        (
            {
                "objectives": alone(),
                "data.own_pairs.embedder": "student",
                "trainer.best_metric": "ce",
                "share": "none",
            },
            "embedder must be teacher, because reconstruction trains no encoder",
        ),
    ],
)
def test_runs_that_cannot_make_pairs_are_refused(changes, message):
    changes = dict(changes)
    config = make_config({"data.own_pairs.share": 0.5})
    if changes.pop("drop", None):
        changes.pop("objectives")
        config.objectives.reconstruction = None
    for key, value in changes.items():
        set_key(config, key, value)
    with pytest.raises(InputError, match=message):
        build_objectives(config)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("share", 1.5, "<= 1"),
        ("interpolate", -0.1, ">= 0"),
        ("every", 0, ">= 1"),
        ("count", 0, ">= 1"),
        ("ring", 0, ">= 1"),
        ("temperature", 0.0, ">= 0.001"),
        ("noise", -1.0, ">= 0"),
        ("start", -1, ">= 0"),
        ("embedder", "lattice", "one of teacher, student"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(key, value, expected):
    values = {"version": 2, "data": {"own_pairs": {key: value}}}
    with pytest.raises(InputError, match=rf"data.own_pairs.{key} must be {expected}"):
        config_from_json(values)


def test_a_run_of_an_earlier_version_has_no_own_pairs():
    assert config_from_json({"version": 2, "data": {}}).data.own_pairs.share == 0
