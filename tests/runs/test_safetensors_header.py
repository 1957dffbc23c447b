"""A safetensors header is believed only where the bytes agree."""

import json
import struct

import mlx.core as mx
import pytest

from energyflow_mlx.errors import InputError
from energyflow_mlx.runs.safetensors_header import check_safetensors


def entry(begin, end, shape, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def write(path, header, payload=b""):
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + payload)


def test_what_mlx_writes_is_believed(tmp_path):
    path = tmp_path / "a.safetensors"
    arrays = {
        "a": mx.zeros((2, 3)),
        "empty": mx.zeros((0, 4)),
        "scalar": mx.array(1, mx.uint64),
        "half": mx.zeros((5,), mx.bfloat16),
        "flags": mx.array([True]),
    }
    for metadata in ({"format": "mlx"}, None):
        mx.save_safetensors(str(path), arrays, metadata)
        assert check_safetensors(path, "room") == {
            name: array.shape for name, array in arrays.items()
        }


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"a": entry(0, 8, [2]), "b": entry(4, 12, [2])}, "'b' at byte 4, not 8"),
        ({"a": entry(4, 12, [2])}, "'a' at byte 4, not 0"),
        ({"a": entry(0, 8, [2])}, "arrays of 8 bytes in 12"),
        ({"a": entry(0, 8, [3])}, "must have 12 bytes, got"),
        ({"a": entry(0, 12, [2**31, 2**31, 2**31])}, "at most 8 sides of 0 to"),
        ({"a": entry(0, 12, [1] * 9)}, "at most 8 sides"),
        ({"a": entry(0, 12, [-3])}, "at most 8 sides of 0 to"),
        ({"a": entry(-12, 0, [3])}, "must have 12 bytes, got"),
        ({"a": entry(0, 12, [3], "F7")}, "must be of a dtype BOOL"),
        ({"a": None}, "must be an object"),
        ({"a": {}}, "must be of a dtype"),
        ([1], "must be an object"),
        ({"__metadata__": {"a": 1}}, "__metadata__ must be an object"),
    ],
)
def test_a_header_that_the_bytes_do_not_have_is_refused(tmp_path, header, said):
    path = tmp_path / "a.safetensors"
    write(path, header, b"0" * 12)
    with pytest.raises(InputError, match=said):
        check_safetensors(path, "room")


@pytest.mark.parametrize("data", [b"", b"12", struct.pack("<Q", 2**63) + b"{}"])
def test_a_length_beyond_the_file_is_refused(tmp_path, data):
    path = tmp_path / "a.safetensors"
    path.write_bytes(data)
    with pytest.raises(InputError, match="must be a safetensors file, got a header"):
        check_safetensors(path, "room")
