"""Positions of the post-norm family: counted from the padding id, or relative."""

import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.teacher.bert import relative_buckets
from energyflow_mlx.teacher.folder import open_folder
from energyflow_mlx.teacher.load import load_encoder
from tests.teacher.tiny import read_golden, write_teacher


def test_a_bucket_is_a_distance_up_to_8_and_then_its_logarithm():
    """Values of the published formula, worked out by hand from its definition."""
    buckets = relative_buckets(200)
    behind = {0: 0, 1: 1, 7: 7, 8: 8, 11: 8, 12: 9, 16: 10, 32: 12, 64: 14, 127: 15}
    for distance, bucket in behind.items():
        assert buckets[199, 199 - distance] == bucket, distance
        ahead = bucket + 16 if distance else 0
        assert buckets[0, distance] == ahead, distance
    assert buckets[0, 199] == 31 and buckets[199, 0] == 15


@pytest.mark.parametrize(("layout", "pad"), [("roberta", 1), ("xlm-roberta", 3)])
def test_positions_begin_after_the_padding_id(tmp_path, layout, pad):
    """A table that holds its row numbers shows which row each token takes."""
    encoder = load_encoder(open_folder(write_teacher(tmp_path / "tiny", layout)))
    rows, width = encoder.position_embeddings.weight.shape
    numbers = mx.broadcast_to(mx.arange(rows)[:, None], (rows, width))
    encoder.position_embeddings.weight = numbers
    taken = encoder._positions(mx.array([[7, 8, pad, 9, pad, pad]]))[0, :, 0]
    assert taken.tolist() == [pad + 1, pad + 2, pad, pad + 3, pad, pad]


def test_a_longer_mpnet_row_is_not_a_shorter_one_moved(tmp_path):
    """The bias depends on the way from query to key, so order matters both ways."""
    encoder = load_encoder(open_folder(write_teacher(tmp_path / "tiny", "mpnet")))
    ids = read_golden("mpnet")[1]["ids"][:1, :9]
    with_bias = encoder(ids)
    encoder.relative_bias.weight = mx.zeros_like(encoder.relative_bias.weight)
    assert np.abs(np.array(encoder(ids) - with_bias)).max() > 1e-2
