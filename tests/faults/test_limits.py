"""Bounds that are refused at the edge: flows of a batch, token ids, memory."""

import subprocess
import sys

import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.build.run import run
from energyflow_mlx.config import TrainerConfig
from energyflow_mlx.errors import InputError
from energyflow_mlx.runtime import device
from tests.build.tiny import E, make_codec, make_config, tokenizer

V = tokenizer().vocab_size

# -- flows of a batch ------------------------------------------------------------------


def command(*words):
    return subprocess.run(
        [sys.executable, "-m", "energyflow_mlx", *words], capture_output=True, text=True
    )


def test_a_batch_of_too_many_flows_is_one_line_and_no_folder(tmp_path):
    folder = tmp_path / "run"
    words = ("+experiment=flow", "lattice.cube.max_active_flows=1000")
    done = command("train", *words, f"run.dir={folder}")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: [config] trainer.micro_batch must be <= 1, as a sentence takes 800 "
        "flow slots and lattice.cube.max_active_flows is 1000, got 8."
    ]
    assert not folder.exists()


def flows_for(samples, **changes):
    """A configuration whose lattice takes so many samples, 66 flow slots each."""
    config = make_config(**changes)
    config.lattice.cube.max_active_flows = samples * config.lattice.slots
    return config


def test_a_micro_batch_of_as_many_flows_as_may_be_active_trains(tmp_path):
    """Held-out sentences travel in batches that fit too."""
    config = flows_for(5, experiment="flow", trainer__micro_batch=5)
    for key, value in {"captions": 120, "val_fraction": 0.1}.items():
        setattr(config.data, key, value)
    config.trainer.max_steps, config.run.dir = 1, str(tmp_path / "run")
    assert run(config)["status"] == "finished"


def test_any_number_of_sentences_goes_through_a_lattice_in_batches_that_fit():
    codec = make_codec(flows_for(3, experiment="flow_text"))
    texts = [f"a dog runs {n}." for n in range(7)]
    together, alone = codec.encode(texts), [codec.encode(text) for text in texts]
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(codec.encode(texts, batch_size=5), alone, atol=1e-5)
    assert codec.transform(together, batch_size=5).shape == (7, E)


# -- token ids -------------------------------------------------------------------------

BAD_IDS = {
    "above": (np.full((2, 4), V, np.int32), rf"in \[0, {V}\), got {V} to {V}"),
    "far above": (np.full((2, 4), 2**40, np.int64), rf"in \[0, {V}\), got {2**40}"),
    "negative": (np.array([[1, -1]], np.int32), rf"in \[0, {V}\), got -1 to 1"),
    "least": (np.full((1, 1), -(2**31), np.int32), rf"in \[0, {V}\), got -{2**31}"),
    "unsigned": (
        np.full((1, 2), 2**32 - 1, np.uint32),
        f"got {2**32 - 1}",
    ),
    "floats": (np.ones((2, 4), np.float32), "must be integers, got .*float32"),
    "truths": (np.ones((2, 4), bool), "must be integers, got .*bool"),
    "one row": (np.ones(4, np.int32), r"must be \[B, L\] .* got \[4\]"),
    "no token": (np.ones((4, 0), np.int32), r"must be \[B, L\] .* got \[4, 0\]"),
    "three axes": (
        np.ones((1, 2, 3), np.int32),
        r"must be \[B, L\] .* got \[1, 2, 3\]",
    ),
}
CALLS = {
    "encode": lambda codec, ids, mask: codec.model.encode(ids, mask),
    "call": lambda codec, ids, mask: codec.model(ids, mask),
    "surface": lambda codec, ids, mask: codec.model.encode_surface(ids, mask),
    "features": lambda codec, ids, mask: codec.model.decode_features(
        ids, mask, mx.zeros((len(ids), E))
    ),
    "cross entropy": lambda codec, ids, mask: codec.cross_entropy(
        ids, mask, mx.zeros((len(ids), E))
    ),
}


@pytest.fixture(scope="module")
def codec():
    found = make_codec(make_config(experiment="flow_text"))
    return found


@pytest.mark.parametrize("kind", [np.array, mx.array], ids=["numpy", "mlx"])
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", BAD_IDS)
def test_ids_that_are_no_token_ids_are_refused(codec, call, name, kind):
    ids, message = BAD_IDS[name]
    with pytest.raises(InputError, match=message):
        CALLS[call](codec, kind(ids), kind(np.ones(ids.shape, np.float32)))


@pytest.mark.parametrize("call", CALLS)
def test_a_mask_of_another_shape_is_refused(codec, call):
    with pytest.raises(InputError, match=r"mask must be \[B, L\] = \[1, 3\], got"):
        CALLS[call](codec, np.ones((1, 3), np.int32), np.ones((1, 2), np.float32))


def test_numpy_ids_give_what_mlx_ids_give(codec):
    ids, mask = np.array([[1, 5, 2], [1, 2, 0]]), np.array([[1, 1, 1], [1, 1, 0.0]])
    arrays = mx.array(ids), mx.array(mask)
    for call in CALLS.values():
        one, other = call(codec, ids, mask), call(codec, *arrays)
        first, second = (found[0] for found in (one, other))
        np.testing.assert_array_equal(np.array(first), np.array(second))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([np.array([1.0, 2.0])], "row 0: token ids must be integers, got float64"),
        ([np.array([1]), np.array([V])], "row 1: token ids must be in"),
        ([np.array([[1, 2]])], r"row 0: token ids must be \[L\], got \[1, 2\]"),
    ],
)
def test_rows_that_are_no_token_ids_are_refused(codec, rows, message):
    with pytest.raises(InputError, match=message):
        codec.encode_ids(rows, normalize=True)


# -- memory ----------------------------------------------------------------------------


@pytest.fixture
def limits_restored():
    memory, cache = mx.get_memory_limit(), mx.set_cache_limit(0)
    mx.set_cache_limit(cache)
    yield
    mx.set_memory_limit(memory)
    mx.set_cache_limit(cache)


@pytest.mark.parametrize(
    "name", ["memory_limit_gb", "cache_limit_gb", "wired_limit_gb"]
)
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), 2.0**21])
def test_a_limit_that_is_no_size_is_refused(name, value):
    with pytest.raises(
        InputError, match=rf"trainer\.{name} must be (a finite|>= 0|<= 1048576)"
    ):
        TrainerConfig(**{name: value})


@pytest.mark.parametrize("kib", [0, 256, 4096])
def test_the_cache_never_keeps_more_than_its_limit(limits_restored, kib):
    device.limit_memory(memory_gb=0.0, cache_gb=kib / 2**20, wired_gb=0.0)
    for _ in range(3):
        arrays = [mx.random.normal((256, 256)) for _ in range(40)]  # 256 KiB each
        mx.eval(arrays)
        del arrays
    mx.eval(mx.ones(1))  # what is above goes at the next allocation
    assert mx.get_cache_memory() <= kib * 1024


def test_limits_that_are_not_asked_for_stay_as_mlx_has_them(limits_restored):
    memory = mx.get_memory_limit()
    cache = mx.set_cache_limit(7 * 2**20)
    device.limit_memory(memory_gb=0.0, cache_gb=None, wired_gb=0.0)
    assert mx.get_memory_limit() == memory
    assert mx.set_cache_limit(cache) == 7 * 2**20


@pytest.mark.skipif(mx.metal.is_available(), reason="Metal has a wired limit")
def test_a_wired_limit_is_refused_where_there_is_none():
    with pytest.raises(InputError, match="wired_limit_gb must be 0 but on Metal"):
        device.limit_memory(memory_gb=0.0, cache_gb=None, wired_gb=1.0)
