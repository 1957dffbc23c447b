"""EFCK1 and EFOP1: the golden bytes, every truncation, every bad field."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from energyflow_mlx.errors import InputError
from energyflow_mlx.runs.swift_files import (
    read_efck1,
    read_efop1,
    write_efck1,
    write_efop1,
)

EFCK1 = bytes.fromhex(
    "4546434b31 01000000 02000000 01000000 0000003f 000080bf 0000003e"
)
EFOP1 = bytes.fromhex(
    "45464f5031 03000000 01000000 02000000 cdcccc3d cdcc4c3e 0ad7233c 0ad7233d"
)
NAN = bytes.fromhex("0000c07f")

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


def f32(*values):
    return np.array(values, np.float32)


def test_golden_projection_reads_and_writes_byte_for_byte(tmp_path):
    path = tmp_path / "p.bin"
    path.write_bytes(EFCK1)
    projection = read_efck1(path)
    assert projection.weight.tolist() == [[0.5, -1.0]]
    assert projection.bias.tolist() == [0.125]
    write_efck1(path, projection.weight, projection.bias)
    assert path.read_bytes() == EFCK1


def test_golden_optimizer_state_reads_and_writes_byte_for_byte(tmp_path):
    path = tmp_path / "o.efop"
    path.write_bytes(EFOP1)
    state = read_efop1(path, sizes=[2])
    assert state.step == 3
    ((first, second),) = state.moments
    np.testing.assert_array_equal(first, f32(0.1, 0.2))
    np.testing.assert_array_equal(second, f32(0.01, 0.04))
    write_efop1(path, state.step, state.moments)
    assert path.read_bytes() == EFOP1


@settings(max_examples=25, deadline=None)
@given(arrays(np.float32, st.tuples(*[st.integers(1, 5)] * 2), elements=finite))
def test_projection_round_trip_is_bit_exact(tmp_path_factory, weight):
    path = tmp_path_factory.mktemp("efck") / "p.bin"
    for bias in (None, weight[:, 0]):
        write_efck1(path, weight, bias)
        back = read_efck1(path)
        assert back.weight.tobytes() == weight.tobytes()
        assert back.weight.shape == weight.shape
        assert (back.bias is None) == (bias is None)
        assert bias is None or back.bias.tobytes() == bias.tobytes()


def test_optimizer_state_saves_every_tensor_without_touching_it(tmp_path):
    """Eight tensors exist once the last block is trained; all of them are written."""
    rng = np.random.default_rng(0)
    shapes = [(4, 3), (4,), (5, 3, 4), (5,), (4, 5), (4,), (4,), (4,)]
    live = [tuple(np.abs(rng.standard_normal((2, *s))).astype("f")) for s in shapes]
    copies = [(m.copy(), v.copy()) for m, v in live]
    write_efop1(tmp_path / "o.efop", 11, live)
    state = read_efop1(tmp_path / "o.efop", [int(np.prod(s)) for s in shapes])
    assert state.step == 11 and len(state.moments) == 8
    for got, kept, now in zip(state.moments, copies, live, strict=True):
        for a, b, c in zip(got, kept, now, strict=True):
            np.testing.assert_array_equal(a, b.ravel())
            np.testing.assert_array_equal(c, b)


@pytest.mark.parametrize(
    ("read", "data"), [(read_efck1, EFCK1), (read_efop1, EFOP1)], ids=["efck1", "efop1"]
)
def test_every_truncation_and_any_excess_names_path_and_offset(tmp_path, read, data):
    path = tmp_path / "file.bin"
    for size in range(len(data)):
        path.write_bytes(data[:size])
        with pytest.raises(InputError, match=r"file\.bin: .*at byte \d+\."):
            read(path)
    path.write_bytes(data + b"\0")
    with pytest.raises(InputError, match=rf"1 more bytes, at byte {len(data)}"):
        read(path)


@pytest.mark.parametrize(
    ("read", "data", "offset", "replacement", "message"),
    [
        (read_efck1, EFCK1, 0, b"EFCK2", "magic must be b'EFCK1', got b'EFCK2'"),
        (read_efck1, EFCK1, 5, b"\0" * 4, "out must be at least 1, got 0, at byte 5"),
        (read_efck1, EFCK1, 9, b"\0" * 4, "in must be at least 1, got 0, at byte 9"),
        (read_efck1, EFCK1, 13, b"\2", "has_bias must be 0 or 1, got 2, at byte 13"),
        (read_efck1, EFCK1, 5, b"\xff" * 8, "truncated: weight .*at byte 17"),
        (read_efck1, EFCK1, 21, NAN, "weight must be finite, got nan, at byte 21"),
        (read_efck1, EFCK1, 25, NAN, "bias must be finite, got nan, at byte 25"),
        (read_efop1, EFOP1, 0, b"EFCK1", "magic must be b'EFOP1'"),
        (read_efop1, EFOP1, 9, b"\2", "truncated: number .*at byte 33"),
        (read_efop1, EFOP1, 9, b"\0", "20 more bytes, at byte 13"),
        (read_efop1, EFOP1, 13, b"\0", "size of parameter 0 must be .*at byte 13"),
        (read_efop1, EFOP1, 13, b"\xff" * 4, "truncated: first moment 0"),
        (read_efop1, EFOP1, 29, NAN, "second moment 0 must be finite.*at byte 29"),
    ],
)
def test_bad_fields_are_refused(tmp_path, read, data, offset, replacement, message):
    path = tmp_path / "file.bin"
    end = offset + len(replacement)
    path.write_bytes(data[:offset] + replacement + data[end:])
    with pytest.raises(InputError, match=message):
        read(path)


def test_a_missing_file_is_an_input_error(tmp_path):
    for read in (read_efck1, read_efop1):
        with pytest.raises(InputError, match=r"no\.bin: no such file"):
            read(tmp_path / "no.bin")


def test_sizes_other_than_the_expected_are_refused(tmp_path):
    path = tmp_path / "o.efop"
    path.write_bytes(EFOP1)
    with pytest.raises(InputError, match="parameters must be 2, got 1, at byte 9"):
        read_efop1(path, sizes=[2, 2])
    with pytest.raises(InputError, match="parameter 0 must be 3, got 2, at byte 13"):
        read_efop1(path, sizes=[3])


def test_writers_refuse_before_touching_the_file(tmp_path):
    path = tmp_path / "p.bin"
    path.write_bytes(b"old")
    one = np.ones((2, 3))
    for call, message in [
        (lambda: write_efck1(path, np.ones(3)), r"weight must be \[out, in\]"),
        (lambda: write_efck1(path, one, np.ones(3)), r"bias must be \[2\], got \[3\]"),
        (lambda: write_efck1(path, one * np.nan), "weight must be finite"),
        (lambda: write_efck1(path, one * 1e39), "weight must be finite in float32"),
        (lambda: write_efop1(path, -1, []), "fit in 32 bits, got -1"),
        (lambda: write_efop1(path, 1, [(one, one[0])]), "moments 0 must be two arrays"),
        (lambda: write_efop1(path, 1, [(one, one * np.inf)]), "second moment 0 must"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1
