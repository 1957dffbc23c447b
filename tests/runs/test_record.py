"""The record says which parts were trained, and refuses the others by name."""

import pytest

from energyflow_mlx.build.objectives import record_of
from energyflow_mlx.errors import InputError
from energyflow_mlx.runs.record import Record
from tests.build.tiny import make_config

THROUGH = Record(frozenset({"encoder", "lattice.flow", "lattice.collector"}))


@pytest.mark.parametrize(
    ("path", "trained", "reached"),
    [
        ("encoder", True, True),
        ("encoder.blocks.0.norm1.weight", True, True),
        ("lattice.flow", True, True),
        ("lattice.mapper", False, False),
        ("lattice", False, True),
        ("lattice.flow_more", False, False),
        ("decoder", False, False),
    ],
)
def test_a_part_is_trained_where_a_prefix_is_above_it(path, trained, reached):
    assert THROUGH.has_trained(path) is trained
    assert THROUGH.has_reached(path) is reached
    assert Record().has_trained(path) and Record().has_reached(path)


def test_a_part_that_was_never_trained_is_named_with_those_that_were():
    THROUGH.require("encode", ("encoder", "lattice.collector"))
    message = (
        r"\[transform\] the lattice.mapper of this model was never trained; its run "
        r"trained encoder, lattice.collector, lattice.flow\."
    )
    with pytest.raises(InputError, match=message):
        THROUGH.require("transform", ("lattice.flow", "lattice.mapper"))


def test_a_record_comes_back_from_the_meta_data_of_a_checkpoint():
    record = Record(frozenset({"encoder", "shared"}), 1.04, 7)
    meta = record.to_json() | {"step": 7, "dimension": 12}
    assert record_of(meta, make_config()) == record


@pytest.mark.parametrize(
    ("experiment", "trained"),
    [
        ("ab", {"encoder", "decoder", "shared"}),
        ("flow", {"lattice"}),
        (
            "flow_text",
            {"encoder", "decoder", "shared", "lattice.flow", "lattice.collector"},
        ),
    ],
)
def test_without_a_record_the_objectives_say_what_was_trained(experiment, trained):
    """As in a checkpoint of an earlier version, which may hold other parts too."""
    record = record_of({"step": 3}, make_config(experiment=experiment))
    assert record == Record(frozenset(trained), None, 3)
