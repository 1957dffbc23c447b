"""EFB1 and EFB2: golden bytes, round trips, and every way a file can be damaged."""

import struct
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from energyflow_mlx.data import efb
from energyflow_mlx.data.efb import EFBReader, EFBWriter
from energyflow_mlx.data.provenance import Provenance, read_provenance, sidecar_path
from energyflow_mlx.errors import EFBError, InputError

GOLDEN_1 = bytes.fromhex(
    "45464231 02000000 02000000"
    "03000000 65000000 07000000 66000000 010101 0000803f 000000bf"
    "03000000 65000000 66000000 00000000 010100 0000803e 00000040"
)
GOLDEN_2 = bytes.fromhex(
    "45464232 01000000 02000000 02000000 03000000 48c3a9 0000803f 000000bf"
)
GOLDEN = {"EFB1": GOLDEN_1, "EFB2": GOLDEN_2}
NOTE = Provenance("minilm", "mean", True, "abc", 128, "def")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.efb"


def damaged(path, data, message):
    path.write_bytes(data)
    with pytest.raises(EFBError, match=message) as caught:
        EFBReader(path)
    assert str(path) in str(caught.value)


def patched(data, at, new):
    return data[:at] + new + data[at + len(new) :]


# Golden vectors of the format's description


def test_golden_efb1_is_read(path):
    assert len(GOLDEN_1) == 66
    path.write_bytes(GOLDEN_1)
    reader = EFBReader(path)
    assert (len(reader), reader.version, reader.embedding_dim) == (2, 1, 2)
    assert (reader.has_tokens, reader.has_text, reader.normalized) == (True, False, 0)
    assert reader.tokens(0).tolist() == [101, 7, 102]
    np.testing.assert_array_equal(reader.targets, [[1.0, -0.5], [0.25, 2.0]])
    assert reader.targets.dtype == np.float32


def test_efb1_rows_lose_their_padding(path):
    path.write_bytes(GOLDEN_1)
    reader = EFBReader(path)
    assert reader.tokens(1).tolist() == [101, 102]
    ids, mask = reader.padded_tokens(1)
    assert (ids.tolist(), mask.tolist()) == ([101, 102, 0], [1, 1, 0])


def test_golden_efb1_is_written(path):
    with EFBWriter(path, 2, has_text=False, has_tokens=True, version=1) as writer:
        writer.add(np.array([1.0, -0.5]), ids=[101, 7, 102])
        writer.add(np.array([0.25, 2.0]), ids=[101, 102, 0], mask=[1, 1, 0])
    assert path.read_bytes() == GOLDEN_1


def test_golden_efb2_is_read(path):
    assert len(GOLDEN_2) == 31
    path.write_bytes(GOLDEN_2)
    reader = EFBReader(path)
    assert (len(reader), reader.version, reader.embedding_dim) == (1, 2, 2)
    assert (reader.has_tokens, reader.has_text, reader.normalized) == (0, True, 0)
    assert reader.texts() == ["Hé"]
    np.testing.assert_array_equal(reader.targets, [[1.0, -0.5]])


def test_golden_efb2_is_written(path):
    with EFBWriter(path, 2, has_text=True, has_tokens=False) as writer:
        writer.add(np.array([1.0, -0.5], ">f4"), text="Hé")
    assert path.read_bytes() == GOLDEN_2


# Damage


@pytest.mark.parametrize("name", GOLDEN)
def test_every_truncation_names_path_and_offset(path, name):
    for size in range(len(GOLDEN[name])):
        damaged(path, GOLDEN[name][:size], r"byte \d+: .*got \d+")


@pytest.mark.parametrize(
    ("size", "offset"), [(0, 0), (11, 11), (13, 12), (20, 16), (30, 16), (33, 31)]
)
def test_a_truncation_is_found_where_the_cut_field_begins(path, size, offset):
    damaged(path, GOLDEN_1[:size], f"byte {offset}: ")


@pytest.mark.parametrize("name", GOLDEN)
def test_trailing_bytes_are_refused(path, name):
    data = GOLDEN[name]
    damaged(path, data + b"\0", f"byte {len(data)}: expected the end after")


def test_an_unfinished_file_says_so(path):
    damaged(path, patched(GOLDEN_2, 4, bytes(4)), "byte 16: .*did not finish")


@pytest.mark.parametrize("magic", [b"EFB3", b"PK\3\4", b'{"ta'])
def test_a_foreign_magic_is_refused(path, magic):
    damaged(
        path, patched(GOLDEN_1, 0, magic), "byte 0: expected the magic EFB1 or EFB2"
    )


def test_zero_tokens_are_refused(path):
    data = GOLDEN_1[:12] + bytes(4) + GOLDEN_1[31:]
    damaged(path, data, "byte 12: sample 0 must have at least 1 token, got length 0")


def test_a_mask_other_than_0_or_1_is_refused(path):
    damaged(path, patched(GOLDEN_1, 56, b"\2"), "byte 56: mask must be 0 or 1, got 2")


def test_a_token_id_past_31_bits_is_refused(path):
    data = patched(GOLDEN_1, 20, b"\0\0\0\x80")
    damaged(path, data, "byte 20: token id must be at most 2147483647")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_target_that_is_not_finite_is_refused(path, bad):
    data = patched(GOLDEN_1, 62, struct.pack("<f", bad))
    damaged(path, data, "byte 62: target must be finite")


@pytest.mark.parametrize("flags", [8, 0x80000002])
def test_unknown_flags_are_refused(path, flags):
    data = patched(GOLDEN_2, 12, struct.pack("<I", flags))
    damaged(path, data, "byte 12: flags must be at most 7")


def test_text_that_is_not_utf8_is_refused(path):
    damaged(path, patched(GOLDEN_2, 21, b"\xff"), "byte 21: text is not UTF-8")


def test_a_text_that_runs_past_the_end_is_refused(path):
    data = patched(GOLDEN_2, 16, b"\xff\xff\xff\xff")
    damaged(path, data, "byte 20: truncated: expected 4294967295 bytes, got 11")


def test_vectors_of_no_size_are_refused(path):
    damaged(path, patched(GOLDEN_1, 8, bytes(4)), "byte 8: vector size")


@pytest.mark.parametrize("flags", [0, 2])
def test_a_lying_count_fails_fast(path, flags):
    data = patched(GOLDEN_2, 4, b"\xff\xff\xff\xff")
    damaged(path, patched(data, 12, struct.pack("<I", flags)), "truncated")


def test_a_missing_file_is_named(path):
    with pytest.raises(InputError, match=f"{path}: no such file"):
        EFBReader(path)


# Writing


def test_an_error_while_writing_leaves_nothing(path):
    with (
        pytest.raises(RuntimeError, match="stop"),
        EFBWriter(path, 2, has_text=True, has_tokens=False) as writer,
    ):
        writer.add(np.ones(2), text="a")
        raise RuntimeError("stop")
    assert list(path.parent.iterdir()) == []


def test_an_error_while_writing_keeps_the_old_file_and_note(path):
    write_one(path, NOTE)
    before = path.read_bytes(), sidecar_path(path).read_bytes()
    with (
        pytest.raises(ValueError, match=r"target must be \[E\] = \[2\], got \[3\]"),
        EFBWriter(path, 2, has_text=True, has_tokens=False) as writer,
    ):
        writer.add(np.ones(3), text="a")
    assert before == (path.read_bytes(), sidecar_path(path).read_bytes())


def write_one(path, note=None, target=(0.6, 0.8), **options):
    kind = {"has_text": True, "has_tokens": False, "normalized": True} | options
    with EFBWriter(path, 2, **kind, provenance=note) as writer:
        writer.add(np.array(target), text="a")


def test_the_normalized_flag_is_kept_and_checked(path):
    write_one(path)
    assert EFBReader(path).normalized
    with pytest.raises(ValueError, match="target 0 must have length 1"):
        write_one(path, target=(1.0, 0.5))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"target": [np.nan, 1.0]}, "must be finite"),
        ({"text": None}, "text must be given"),
        ({"ids": None}, "ids must be given"),
        ({"ids": []}, r"\[L\] with L >= 1"),
        ({"ids": [1, 2], "mask": [1]}, r"got \[2\] and \[1\]"),
        ({"ids": [-1]}, "ids must be 0"),
        ({"ids": [1], "mask": [2]}, "mask must be 0 or 1"),
    ],
)
def test_a_bad_sample_is_refused(path, bad, message):
    sample = {"target": [1.0, 0.0], "text": "a", "ids": [1]} | bad
    with (
        pytest.raises(ValueError, match=message),
        EFBWriter(path, 2, has_text=True, has_tokens=True) as writer,
    ):
        writer.add(np.array(sample.pop("target")), **sample)


def test_efb1_has_tokens_only(path):
    with pytest.raises(ValueError, match="EFB1 must have tokens, no text"):
        EFBWriter(path, 2, has_text=True, has_tokens=True, version=1)


def test_the_note_beside_a_file_says_what_made_it(path):
    write_one(path, NOTE)
    assert EFBReader(path).provenance() == NOTE
    assert '"samples": 1' in sidecar_path(path).read_text()


def test_a_note_about_another_file_is_refused(path):
    write_one(path, NOTE)
    path.write_bytes(GOLDEN_1)
    with pytest.raises(InputError, match="describes a file of 29 bytes, got 66"):
        read_provenance(path)


def test_a_note_does_not_outlive_its_file(path):
    write_one(path, NOTE)
    write_one(path)
    assert read_provenance(path) is None


def test_a_damaged_note_is_refused(path):
    write_one(path, NOTE)
    sidecar_path(path).write_text("{")
    with pytest.raises(
        InputError, match=r"x\.efb\.json: (damaged note|not readable|must)"
    ):
        read_provenance(path)


# Round trips

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
IDS = st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=9)


@settings(max_examples=60, deadline=None)
@given(
    st.data(),
    st.integers(1, 5),
    st.integers(0, 6),
    st.sampled_from([(1, 0, 1), (2, 0, 0), (2, 0, 1), (2, 1, 0), (2, 1, 1)]),
)
def test_round_trip(data, width, count, layout):
    version, has_text, has_tokens = layout[0], bool(layout[1]), bool(layout[2])
    rows = [
        (
            data.draw(st.lists(FLOATS, min_size=width, max_size=width)),
            data.draw(TEXTS) if has_text else None,
            data.draw(IDS) if has_tokens else None,
        )
        for _ in range(count)
    ]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "x.efb"
        kind = {"has_text": has_text, "has_tokens": has_tokens, "version": version}
        with EFBWriter(path, width, **kind) as writer:
            for target, text, ids in rows:
                writer.add(np.array(target, np.float32), text=text, ids=ids)
        reader = EFBReader(path)
        assert len(reader) == count
        for i, (target, text, ids) in enumerate(rows):
            assert reader.targets[i].tolist() == target
            assert text is None or reader.text(i) == text
            assert ids is None or reader.tokens(i).tolist() == ids


@settings(max_examples=150, deadline=None)
@given(st.data(), st.sampled_from(sorted(GOLDEN)))
def test_any_changed_byte_is_read_or_refused(data, name):
    at = data.draw(st.integers(0, len(GOLDEN[name]) - 1))
    changed = patched(GOLDEN[name], at, bytes([data.draw(st.integers(0, 255))]))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "x.efb"
        path.write_bytes(changed)
        try:
            assert np.isfinite(EFBReader(path).targets).all()
        except EFBError as error:
            assert "byte " in str(error)


def test_chunks_join_seamlessly(path, monkeypatch):
    monkeypatch.setattr(efb, "_CHUNK", 3)
    rng = np.random.default_rng(0)
    targets = rng.normal(size=(8, 5)).astype(np.float32)
    with EFBWriter(path, 5, has_text=True, has_tokens=True) as writer:
        for i, target in enumerate(targets):
            writer.add(target, text="ü" * i, ids=np.arange(i + 1), mask=[1] * i + [0])
    reader = EFBReader(path)
    np.testing.assert_array_equal(reader.targets, targets)
    np.testing.assert_array_equal(reader.target_rows(np.array([7, 2])), targets[[7, 2]])
    assert [len(reader.tokens(i)) for i in range(8)] == list(range(8))


def test_errors_in_a_later_chunk_name_their_own_offset(path, monkeypatch):
    monkeypatch.setattr(efb, "_CHUNK", 1)
    damaged(path, patched(GOLDEN_1, 56, b"\2"), "byte 56: mask")
    damaged(path, patched(GOLDEN_1, 62, struct.pack("<f", np.nan)), "byte 62: target")


def test_asking_for_what_the_file_lacks_is_an_error(path):
    path.write_bytes(GOLDEN_1)
    with pytest.raises(ValueError, match="must have text"):
        EFBReader(path).texts()
    path.write_bytes(GOLDEN_2)
    with pytest.raises(ValueError, match="must have tokens"):
        EFBReader(path).tokens(0)
