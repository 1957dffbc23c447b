"""Batches that are launched and landed later."""

import logging

import mlx.core as mx
import pytest

from energyflow_mlx.readback import (
    BatchDiscarded,
    BatchNotSynced,
    ReadbackEngine,
    ReadbackError,
)


@pytest.fixture
def engine():
    return ReadbackEngine()


def launch(engine, label="one", number=3.0):
    with engine.launched(label) as flight:
        value = engine.defer("value", mx.array(number) * 2)
    return flight, value


def test_a_launched_batch_is_started_and_not_waited_for(engine):
    flight, value = launch(engine)
    assert (engine.submissions, engine.evaluations) == (1, 0)
    flight.land()
    assert (engine.submissions, engine.evaluations) == (1, 1)
    assert value.value() == 6.0


def test_reading_lands_the_batch_once(engine):
    flight, value = launch(engine)
    assert value.value() == 6.0 and value.value() == 6.0
    flight.land()
    assert engine.evaluations == 1


def test_a_batch_may_be_launched_before_the_last_one_lands(engine):
    first, one = launch(engine, "first", 1.0)
    second, two = launch(engine, "second", 2.0)
    assert (one.value(), two.value()) == (2.0, 4.0)
    assert (first.timing.label, second.timing.label) == ("first", "second")


def test_a_value_cannot_be_read_before_the_launch(engine):
    with engine.launched("one"):
        value = engine.defer("value", mx.array(1.0))
        with pytest.raises(BatchNotSynced, match="'value'"):
            value.value()
    assert value.value() == 1.0


def test_a_flight_cannot_land_inside_its_batch(engine):
    with (
        pytest.raises(ReadbackError, match="'one' must be launched"),
        engine.launched("one") as flight,
    ):
        flight.land()


def test_an_error_in_the_body_discards_the_batch(engine):
    with pytest.raises(ZeroDivisionError), engine.launched("one") as flight:
        value = engine.defer("value", mx.array(1.0))
        raise ZeroDivisionError
    with pytest.raises(BatchDiscarded):
        value.value()
    with pytest.raises(ReadbackError):
        flight.land()
    assert engine.depth == 0


def test_only_the_outermost_batch_is_launched(engine):
    with (
        pytest.raises(ReadbackError, match="outermost batch, got 'inner'"),
        engine.batch("outer"),
        engine.launched("inner"),
    ):
        pass


def test_what_is_fenced_is_computed_and_its_buffers_are_let_go(engine):
    """Otherwise a state could not be updated in place while it is in flight."""
    size = 1 << 20
    mx.clear_cache()
    others = mx.get_active_memory()
    with engine.launched("one") as flight:
        engine.fence({"state": mx.zeros(size) + 1.0})
        value = engine.defer("value", mx.array(1.0) + 1.0)
    flight.land()
    assert value.value() == 2.0
    mx.clear_cache()
    assert mx.get_active_memory() - others < 4 * size

    with engine.launched("two") as flight:
        state = mx.zeros(size) + 1.0
        engine.fence(state)
        engine.defer("value", mx.array(1.0) + 1.0)
    flight.land()
    before = mx.get_active_memory()
    mx.eval(state)  # nothing left to compute
    assert mx.get_active_memory() == before


def test_building_and_waiting_are_timed_apart(engine, caplog):
    with caplog.at_level(logging.DEBUG, "energyflow_mlx.readback"):
        flight, _ = launch(engine)
        assert flight.timing is None
        flight.land()
    timing = flight.timing
    assert timing is engine.last_timing
    assert timing.build_ms > 0 and timing.submit_ms > 0 and timing.sync_ms >= 0
    assert timing.peak_bytes > 0
    assert "ms from begin to sync" in caplog.text and f"'{timing.label}'" in caplog.text


def test_hidden_reads_are_refused_until_the_launch_in_debug_mode():
    engine = ReadbackEngine(debug=True)
    with engine.launched("one") as flight:
        array = mx.array(1.0) + 1.0
        with pytest.raises(ReadbackError, match="hidden read"):
            array.item()
        engine.defer("value", array)
    assert array.item() == 2.0
    flight.land()
    assert [operation.label for operation in flight.timing.operations] == ["value"]
