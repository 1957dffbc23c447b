"""The rules of deferred readback, each broken once in the reference."""

import gc
import io
import logging
import re
import threading
import time
import weakref

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from mlx.utils import tree_flatten

from energyflow_mlx.readback import (
    BatchDiscarded,
    BatchNotSynced,
    ReadbackEngine,
    ReadbackError,
)
from energyflow_mlx.readback.guard import HiddenReadGuard
from tests.text.small import make_block


@pytest.fixture
def eval_calls(monkeypatch):
    """Counts every mx.eval of the process, whoever makes it."""
    calls = []
    original = mx.eval

    def counted(*trees):
        calls.append(len(trees))
        return original(*trees)

    monkeypatch.setattr(mx, "eval", counted)
    return calls


class Student(nn.Module):
    """A small real model: TCN block, masked mean, projection."""

    def __init__(self, dim=8, out=5):
        super().__init__()
        self.block = make_block(dim, 12, 3, 2)
        self.projection = nn.Linear(dim, out)

    def __call__(self, x, mask):
        y = self.block(x, mask)
        return self.projection(y.sum(axis=1) / mask.sum(axis=1, keepdims=True))


class Training:
    """A training loop under the engine, the way the trainer uses it."""

    def __init__(self, engine, seed=0):
        mx.random.seed(seed)
        self.engine = engine
        self.model = Student()
        self.optimizer = optim.AdamW(1e-2)
        self.loss_and_grad = nn.value_and_grad(self.model, self.loss)
        mx.eval(self.model)
        rng = np.random.default_rng(seed)
        self.x = rng.standard_normal((4, 6, 8)).astype(np.float32)
        self.target = rng.standard_normal((4, 5)).astype(np.float32)

    def loss(self, x, mask, target):
        return (self.model(x, mask) - target).square().mean()

    def build(self, step):
        x = mx.array(np.roll(self.x, step, axis=1))
        loss, grads = self.loss_and_grad(x, mx.ones((4, 6)), mx.array(self.target))
        grads, norm = optim.clip_grad_norm(grads, 1.0)
        self.optimizer.update(self.model, grads)
        self.engine.fence(self.model, self.optimizer.state)
        return self.engine.defer("loss", loss), self.engine.defer("norm", norm)

    def step(self, step):
        with self.engine.batch(f"step {step}"):
            loss, norm = self.build(step)
        return loss.value(), norm.value()


# -- Guard ------------------------------------------------------------


@pytest.mark.parametrize("debug", [False, True])
def test_reading_in_an_open_batch_raises_and_names_the_label(debug):
    engine = ReadbackEngine(debug=debug)
    with engine.batch("step 3"):
        loss = engine.defer("loss", mx.arange(4).sum())
        with pytest.raises(BatchNotSynced, match="'loss'.*'step 3'"):
            loss.value()
    assert loss.value() == 6
    assert loss.value() == 6


def test_deferred_outside_a_batch_is_never_guarded_r2():
    engine = ReadbackEngine()
    before = engine.defer("before", mx.array([1.0, 2.0]) * 2)
    with engine.batch("step"):
        np.testing.assert_array_equal(before.value(), [2.0, 4.0])
    after = engine.defer("after", mx.array(3) + 1)
    assert after.value() == 4
    assert engine.evaluations == 3  # each free readback by itself, and the batch


def test_immediate_read_inside_a_batch_never_hangs_r1():
    engine = ReadbackEngine()
    with engine.batch("step"):
        inside = engine.defer("inside", mx.array(1) + 1)
        with pytest.raises(BatchNotSynced):
            inside.value()
        total = engine.defer("total", inside.array + 1)
    assert total.value() == 3


def test_default_of_every_deferred_label_is_the_same_r6():
    engine = ReadbackEngine()
    with engine.batch("step"):
        readbacks = [
            engine.defer("scalar", mx.array(1)),
            engine.defer("tree", {"a": mx.ones(2)}),
            engine.defer("converted", mx.ones(2), convert=len),
        ]
        for readback in readbacks:
            with pytest.raises(BatchNotSynced, match=readback.label):
                readback.value()
    assert [r.value() for r in readbacks][0] == 1


# -- Nesting ------------------------------------------------------------------


def test_inner_sync_does_not_release_outer_readbacks(eval_calls):
    engine = ReadbackEngine()
    with engine.batch("outer"):
        first = engine.defer("first", mx.array(1) + 1)
        with engine.batch("inner"):
            second = engine.defer("second", mx.array(2) + 1)
        assert engine.depth == 1
        assert eval_calls == []
        for readback in (first, second):
            with pytest.raises(BatchNotSynced, match="'outer'"):
                readback.value()
    assert (first.value(), second.value()) == (2, 3)
    assert len(eval_calls) == engine.evaluations == 1


def test_sync_must_name_the_innermost_batch_r8():
    engine = ReadbackEngine()
    engine.begin("outer")
    engine.begin("inner")
    with pytest.raises(ReadbackError, match="'inner', got 'outer'"):
        engine.sync("outer")
    assert engine.depth == 2
    engine.sync("inner")
    engine.sync("outer")
    assert engine.depth == 0


def test_sync_without_begin_is_an_error():
    with pytest.raises(ReadbackError, match=r"sync\('step'\) with no batch open"):
        ReadbackEngine().sync("step")


def test_fence_outside_a_batch_is_an_error():
    with pytest.raises(ReadbackError, match="inside a batch"):
        ReadbackEngine().fence(mx.array(1))


# -- One evaluation --------------------------------------------------


def test_training_evaluates_exactly_once_per_micro_batch(eval_calls):
    training = Training(ReadbackEngine())
    eval_calls.clear()
    losses = [training.step(step)[0] for step in range(7)]
    assert len(eval_calls) == training.engine.evaluations == 7
    assert losses[-1] < losses[0]


def test_forward_and_backward_evaluate_nothing_r12():
    training = Training(ReadbackEngine())
    with training.engine.batch("step"):
        guard = HiddenReadGuard()
        guard.arm("step")  # any hidden read of MLX raises from here on
        try:
            training.build(0)
        finally:
            guard.disarm()


def test_parameters_and_state_are_evaluated_at_the_sync():
    """The fence leaves nothing lazy: a second evaluation has nothing to compute."""
    training = Training(ReadbackEngine())
    training.step(0)
    for tree in (training.model.parameters(), training.optimizer.state):
        for name, array in tree_flatten(tree):
            assert _graph_nodes(array) == 0, name


def test_without_the_fence_the_parameters_stay_lazy():
    """The check above can fail: the same loop without its fence leaves a graph."""
    training = Training(ReadbackEngine())
    training.engine.fence = lambda *trees: None
    training.step(0)
    nodes = [_graph_nodes(a) for _, a in tree_flatten(training.model.parameters())]
    assert max(nodes) > 0


def test_fence_sees_what_a_module_holds_at_the_sync():
    engine = ReadbackEngine()
    layer = nn.Linear(2, 2)
    with engine.batch("step"):
        engine.fence(layer)
        layer.weight = layer.weight * 2  # updated after the call
    assert _graph_nodes(layer.weight) == 0


def test_a_fence_of_an_inner_batch_holds_at_the_outer_sync():
    engine = ReadbackEngine()
    array = mx.arange(3) + 1
    with engine.batch("outer"):
        with engine.batch("inner"):
            engine.fence(array)
        assert _graph_nodes(array) > 0
    assert _graph_nodes(array) == 0


def _graph_nodes(array):
    """Number of primitives still to run for an array."""
    text = io.StringIO()
    mx.export_to_dot(text, array)
    return text.getvalue().count("shape=rectangle") + text.getvalue().count("[label =")


# -- Errors ---------------------------------------------------------------


def test_exception_discards_the_batch_and_the_next_one_works_r9():
    engine = ReadbackEngine()
    with pytest.raises(ZeroDivisionError), engine.batch("bad"):
        lost = engine.defer("lost", mx.array(1))
        raise ZeroDivisionError
    assert engine.depth == 0
    with pytest.raises(BatchDiscarded, match="'lost'.*'bad'"):
        lost.value()
    with pytest.raises(ReadbackError, match="discarded"):
        _ = lost.array
    with engine.batch("good"):
        found = engine.defer("found", mx.array(2) + 1)
    assert found.value() == 3
    assert engine.evaluations == 1


def test_exception_in_an_inner_batch_leaves_the_outer_one_whole():
    engine = ReadbackEngine()
    with engine.batch("outer"):
        kept = engine.defer("kept", mx.array(1) + 1)
        with pytest.raises(ZeroDivisionError), engine.batch("inner"):
            lost = engine.defer("lost", mx.array(1))
            engine.begin("left open")
            raise ZeroDivisionError
        assert engine.depth == 1
        with pytest.raises(BatchDiscarded, match="'inner'"):
            lost.value()
    assert kept.value() == 2


def test_a_level_left_open_is_an_error_and_discards():
    engine = ReadbackEngine()
    with pytest.raises(ReadbackError, match="own level 1, got 2"), engine.batch("step"):
        engine.begin("forgotten")
    assert engine.depth == 0


def test_a_failed_evaluation_names_the_batch_and_discards_it(tmp_path):
    engine = ReadbackEngine()
    path = tmp_path / "a.safetensors"
    mx.save_safetensors(str(path), {"a": mx.ones((100, 100))})
    lazy = mx.load(str(path))["a"]
    path.write_bytes(path.read_bytes()[:200])  # its payload is gone
    with pytest.raises(RuntimeError, match="evaluation of 'step 9'.*read"):
        with engine.batch("step 9"):
            lost = engine.defer("lost", lazy.sum())
    assert engine.depth == 0
    with pytest.raises(BatchDiscarded):
        lost.value()


def test_defer_refuses_what_is_no_array():
    with pytest.raises(TypeError, match=r"'loss' must be an mx.array.*got float"):
        ReadbackEngine().defer("loss", 1.0)
    with pytest.raises(TypeError, match="got nothing"):
        ReadbackEngine().defer("loss", {})


def test_an_open_batch_belongs_to_its_thread():
    engine = ReadbackEngine()
    caught = []

    def intrude():
        try:
            engine.begin("other")
        except ReadbackError as error:
            caught.append(str(error))

    with engine.batch("mine"):
        thread = threading.Thread(target=intrude)
        thread.start()
        thread.join()
    assert len(caught) == 1 and "'mine'" in caught[0]


# -- Overlap ------------------------------------------------------------------


def test_two_overlapped_micro_batches_equal_sequential_ones(eval_calls):
    sequential = Training(ReadbackEngine())
    expected = [sequential.step(step)[0] for step in (0, 1)]
    eval_calls.clear()

    overlapped = Training(ReadbackEngine())
    engine = overlapped.engine
    eval_calls.clear()
    with engine.batch("both"):
        first, _ = overlapped.build(0)
        engine.submit()  # the device works on the first while the second is built
        with pytest.raises(BatchNotSynced, match="'loss'"):
            first.value()
        second, _ = overlapped.build(1)
    assert [first.value(), second.value()] == expected
    assert (len(eval_calls), engine.submissions) == (1, 1)
    for (name, a), (_, b) in zip(
        tree_flatten(sequential.model.parameters()),
        tree_flatten(overlapped.model.parameters()),
        strict=True,
    ):
        np.testing.assert_array_equal(np.array(a), np.array(b), err_msg=name)


@pytest.mark.parametrize("debug", [False, True])
def test_start_computes_in_an_open_batch_and_reads_nothing(debug):
    engine = ReadbackEngine(debug=debug)
    with engine.batch("parts"):
        x = mx.ones((4,)) * 2
        engine.start(x, {"more": [x + 1]})
        read = engine.defer("sum", x.sum())
        with pytest.raises(BatchNotSynced):
            read.value()
    assert read.value() == 8.0
    assert engine.submissions == 1
    assert engine.evaluations == (2 if debug else 1)


def test_submit_of_chosen_readbacks_does_not_satisfy_the_guard():
    engine = ReadbackEngine()
    with engine.batch("step"):
        chosen = engine.defer("chosen", mx.arange(3).sum())
        engine.submit([chosen])
        with pytest.raises(BatchNotSynced, match="'chosen'"):
            chosen.value()
    assert chosen.value() == 3


# -- Memory ----------------------------------------------------------


def test_memory_after_200_steps_is_that_after_20():
    training = Training(ReadbackEngine())
    active = {}
    for step in range(1, 201):
        training.step(step)
        if step in (20, 200):
            gc.collect()
            active[step] = mx.get_active_memory()
    assert active[200] <= 1.05 * active[20]


def test_two_operations_of_one_label_do_not_overwrite_each_other_r4():
    engine = ReadbackEngine()
    with engine.batch("step"):
        values = [engine.defer("conv", mx.full((3,), i) + 1) for i in range(3)]
    assert [r.value().tolist() for r in values] == [[1] * 3, [2] * 3, [3] * 3]


def test_arrays_are_released_when_read_r11():
    engine = ReadbackEngine()
    released = []
    with engine.batch("step"):
        array = mx.arange(10) + 1
        weakref.finalize(array, released.append, "array")
        readback = engine.defer("array", array)
        del array
    assert released == []
    host = readback.value()
    gc.collect()
    assert released == ["array"]
    assert host.tolist() == list(range(1, 11))
    with pytest.raises(ReadbackError, match="'array' must be taken before"):
        _ = readback.array


def test_the_engine_keeps_nothing_of_a_synced_batch_r11():
    engine = ReadbackEngine()
    released = []
    with engine.batch("step"):
        readback = engine.defer("unread", mx.arange(10) + 1)
        weakref.finalize(readback, released.append, "readback")
        del readback
    gc.collect()
    assert released == ["readback"]


def test_the_host_value_is_a_copy():
    engine = ReadbackEngine()
    array = mx.zeros(3)
    value = engine.defer("array", array).value()
    value[0] = 7
    assert array.tolist() == [0, 0, 0]


# -- Values ----------------------------------------------------------------------------


def test_default_conversion_of_scalars_arrays_and_trees():
    engine = ReadbackEngine()
    with engine.batch("step"):
        tree = engine.defer(
            "tree",
            {
                "loss": mx.array(0.5),
                "count": mx.array(3, mx.int32),
                "rows": [mx.ones((2, 3)), mx.array([1.5], mx.bfloat16)],
            },
        )
    value = tree.value()
    assert value["loss"] == 0.5 and isinstance(value["loss"], float)
    assert value["count"] == 3 and isinstance(value["count"], int)
    assert value["rows"][0].shape == (2, 3)
    assert value["rows"][1].dtype == np.float32 and value["rows"][1][0] == 1.5
    assert engine.evaluations == 1  # widening bfloat16 needs no second one


def test_own_conversion_runs_once_after_the_sync():
    engine = ReadbackEngine()
    calls = []

    def convert(arrays):
        calls.append(1)
        return arrays[0].item() / arrays[1].item()

    with engine.batch("step"):
        mean = engine.defer("mean", (mx.array(6.0), mx.array(4.0)), convert)
        assert calls == []
    assert (mean.value(), mean.value(), len(calls)) == (1.5, 1.5, 1)


# -- Timing and debug mode ------------------------------------------------


def test_timing_of_a_batch_is_recorded_under_its_label(caplog):
    engine = ReadbackEngine()
    with caplog.at_level(logging.DEBUG, "energyflow_mlx.readback.engine"):
        with engine.batch("step 5"):
            engine.defer("product", mx.random.normal((64, 64)) @ mx.ones((64, 64)))
    timing = engine.last_timing
    assert timing.label == "step 5"
    assert timing.build_ms > 0 and timing.sync_ms > 0
    assert timing.peak_bytes >= 64 * 64 * 4
    assert timing.operations == ()
    assert re.search(
        r"batch 'step 5': [\d.]+ ms from begin to sync \(build [\d.]+, submit 0.00, "
        r"labels 0.00\), sync [\d.]+ ms, peak [\d.]+ MiB",
        caplog.text,
    )


def test_what_debug_mode_computes_is_no_part_of_building_the_graph():
    """The parts of a batch's time add up to no more than it."""
    engine = ReadbackEngine(debug=True)
    large = mx.random.normal((1200, 1200))
    mx.eval(large)
    started = time.perf_counter()
    with engine.batch("step 6"):
        engine.defer("product", large @ large @ large)
    whole = (time.perf_counter() - started) * 1e3
    timing = engine.last_timing
    (operation,) = timing.operations
    assert timing.build_ms >= 0 and operation.wall_ms > timing.build_ms
    assert timing.build_ms + operation.wall_ms + timing.sync_ms <= whole


def test_debug_lists_each_label_once_per_call_and_values_agree(caplog):
    normal, debug = Training(ReadbackEngine()), Training(ReadbackEngine(debug=True))
    for step in range(3):
        with caplog.at_level(logging.INFO, "energyflow_mlx.readback.engine"):
            caplog.clear()
            np.testing.assert_allclose(debug.step(step), normal.step(step), rtol=1e-6)
        operations = debug.engine.last_timing.operations
        assert [op.label for op in operations] == ["loss", "norm"]
        assert [op.shapes for op in operations] == [((),), ((),)]
        assert all(op.wall_ms > 0 for op in operations)
        assert caplog.text.count("'loss'") == 1


def test_debug_lists_the_labels_of_nested_batches_too():
    engine = ReadbackEngine(debug=True)
    with engine.batch("outer"):
        engine.defer("a", mx.ones((2, 3)))
        with engine.batch("inner"):
            engine.defer("b", mx.ones(4))
    listed = [(op.label, op.shapes) for op in engine.last_timing.operations]
    assert listed == [("a", ((2, 3),)), ("b", ((4,),))]


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.item(),
        lambda x: x.tolist(),
        lambda x: float(x),
        lambda x: int(x),
        lambda x: bool(x),
        lambda x: 1 if x > 0 else 2,
        lambda x: f"{x}",
        lambda x: str(x),
        lambda x: [0, 1, 2][x],
        lambda x: mx.eval(x),
        lambda x: mx.async_eval(x),
    ],
    ids="item tolist float int bool if format str index eval async_eval".split(),
)
def test_debug_refuses_hidden_reads_in_an_open_batch(read):
    engine = ReadbackEngine(debug=True)
    x = mx.array(1) + 1
    with pytest.raises(ReadbackError, match="lazy inside batch 'step'"):
        with engine.batch("step"):
            read(x)
    read(x)  # and lifts the guard afterwards, also after the exception


def test_debug_guard_leaves_other_threads_alone():
    engine = ReadbackEngine(debug=True)
    results = []
    with engine.batch("step"):
        thread = threading.Thread(target=lambda: results.append(mx.array(2).item()))
        thread.start()
        thread.join()
    assert results == [2]


def test_guard_restores_every_method_of_mlx():
    before = {name: vars(mx.array).get(name) for name in dir(mx.array)}
    with ReadbackEngine(debug=True).batch("step"):
        assert vars(mx.array)["item"] is not before["item"]
    assert {name: vars(mx.array).get(name) for name in dir(mx.array)} == before
