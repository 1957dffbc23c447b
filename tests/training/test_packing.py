"""Tensors in vectors: there and back, and which lie together."""

import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.training.packing import Packing

PARAMETERS = {
    "a.odd": mx.arange(3.0),
    "a.wide": mx.arange(128.0).reshape(2, 64) + 10,
    "b.other": mx.arange(4.0) + 200,
    "c.alone": mx.arange(6.0).reshape(3, 2) + 300,
}
FATES = {"a.odd": 1, "a.wide": 1, "b.other": 1, "c.alone": None}


@pytest.fixture
def packing():
    return Packing(PARAMETERS, FATES.get)


def test_vectors_come_back_as_the_tensors_they_were(packing):
    vectors = packing.join(PARAMETERS)
    found = packing.split(vectors)
    assert found.keys() == PARAMETERS.keys()
    for path, array in PARAMETERS.items():
        np.testing.assert_array_equal(found[path], array)
    assert sorted(v.ndim for v in vectors.values()) == [1, 2]


def test_odd_sizes_come_last_so_that_others_start_at_wide_addresses(packing):
    (pack,) = (p for p in packing.packs.values() if len(p.shapes) > 1)
    assert next(iter(pack.shapes)) == "a.wide"


def test_a_large_tensor_stays_alone():
    parameters = {"large": mx.zeros((1025, 1024)), "small": mx.zeros(3)}
    assert len(Packing(parameters, lambda path: 1).packs) == 2


def test_a_pack_in_part_is_refused(packing):
    with pytest.raises(ValueError, match=r"must be whole, without .*b\.other"):
        packing.join({"a.odd": mx.zeros(3), "a.wide": mx.zeros((2, 64))})
