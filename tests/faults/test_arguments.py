"""Numbers, names and files that a user may give and should not: refused by one line."""

import ast
import dataclasses
import json
import math
import typing
from pathlib import Path

import numpy as np
import pytest

import energyflow_mlx
from energyflow_mlx import decode, doctor, encode, evaluate, export, prepare, profile
from energyflow_mlx.config import Config, objectives_type
from energyflow_mlx.config.lattice import LatticeConfig
from energyflow_mlx.config.root import ENCODERS
from energyflow_mlx.data.files import read_lines, require_output
from energyflow_mlx.data.vectors import open_matrix
from energyflow_mlx.errors import InputError, one_line
from energyflow_mlx.runtime.json_text import json_text
from tests.build.tiny import E, make_codec

PACKAGE = Path(energyflow_mlx.__file__).parent
NEVER = (math.nan, math.inf, -math.inf, float("1e400"), 2**120, -(2**120))
UNCOUNTED = (2**64, 2**70, -(2**70))  # of whole numbers
COMMANDS = {
    encode.EncodeArgs: encode.encode_file,
    decode.DecodeArgs: decode.decode_file,
    evaluate.EvaluateArgs: evaluate.evaluate,
    prepare.PrepareArgs: prepare.prepare,
    profile.ProfileArgs: profile.profile,
    export.ExportArgs: export.export,
    doctor.DoctorArgs: doctor.doctor,
}


def members(kind):
    """Plain types of an annotation: those of a union, or of a list's elements."""
    return typing.get_args(kind) or (kind,)


def groups(schema=Config):
    """Every dataclass of a run's configuration."""
    yield schema
    for kind in typing.get_type_hints(schema).values():
        for member in members(kind):
            if dataclasses.is_dataclass(member):
                yield from groups(member)


def settings_of_a_run():
    """Class and name of every number that a run is configured by."""
    found = {*groups(), *groups(objectives_type()), *groups(LatticeConfig)}
    found |= set(ENCODERS.values())
    for schema in sorted(found, key=lambda kind: kind.__name__):
        for name, kind in typing.get_type_hints(schema).items():
            if {int, float} & set(members(kind)) and bool not in members(kind):
                yield pytest.param(schema, name, id=f"{schema.__name__}.{name}")


def arguments_of_commands():
    """Class and name of every number that a command takes."""
    for schema in COMMANDS:
        for name, kind in typing.get_type_hints(schema).items():
            if kind in (int, float):
                yield pytest.param(schema, name, id=f"{schema.__name__}.{name}")


def with_value(schema, name, value):
    """The settings with one other value; a list gets it as its only element."""
    kind = typing.get_type_hints(schema)[name]
    given = [value] if typing.get_origin(kind) is list else value
    return schema(**{name: given})


@pytest.mark.parametrize(("schema", "name"), list(settings_of_a_run()))
def test_every_number_of_a_configuration_is_bounded_on_both_sides(schema, name):
    counts = int in members(typing.get_type_hints(schema)[name])
    for value in (*NEVER, *(UNCOUNTED if counts else ())):
        with pytest.raises(InputError, match=name):
            with_value(schema, name, value)


@pytest.mark.parametrize(("schema", "name"), list(arguments_of_commands()))
def test_every_number_of_a_command_is_bounded_before_any_work(schema, name):
    required = {f.name: "x" for f in dataclasses.fields(schema) if f.default == "???"}
    for value in (*NEVER, *UNCOUNTED, -1):
        with pytest.raises(InputError, match=name):
            COMMANDS[schema](schema(**required | {name: value}))


def test_there_are_numbers_to_check():
    assert len(list(settings_of_a_run())) > 60
    assert len(list(arguments_of_commands())) > 12


def test_names_in_messages_stay_on_their_line():
    assert one_line("a\nb\tc\x1b[31m\udcff é") == "a\\nb\\tc\\x1b[31m\\udcff é"


# Calls from Python -------------------------------------------------------------------


@pytest.fixture(scope="module")
def codec():
    """A small model that nobody has trained."""
    return make_codec()


ROWS = np.random.default_rng(0).normal(size=(2, E)).astype(np.float32)


@pytest.mark.parametrize("value", [-1, 2**31, 1.5, math.nan, "3", None, True])
def test_a_batch_size_that_is_no_count_is_refused_by_every_call(codec, value):
    for call in (
        lambda: codec.encode(["a dog"], batch_size=value),
        lambda: list(codec.encode_stream(["a dog"], batch_size=value)),
        lambda: codec.decode(ROWS, batch_size=value),
    ):
        with pytest.raises(InputError, match=r"^\[\w+\] batch_size must be .*"):
            call()


@pytest.mark.parametrize(
    "name", ["max_length", "top_k", "beams", "corrections", "seed"]
)
def test_a_setting_of_decoding_is_a_whole_number(codec, name):
    """A fraction used to reach the device, and broke every call after it."""
    for value in (1.5, "3", None):
        with pytest.raises(InputError, match=rf"^\[decode\] {name} must be a whole"):
            codec.decode(ROWS, **{name: value})
    assert len(codec.decode(ROWS, max_length=2)) == 2


@pytest.mark.parametrize(
    "texts", [None, 3, b"a", {"a": 1}, iter("a"), [3], [None], [["a"]], ["\ud800"]]
)
def test_what_is_no_text_is_refused_by_its_place(codec, texts):
    with pytest.raises(InputError, match=r"^\[encode\] sentences? [\w ]*must be "):
        codec.encode(texts)


@pytest.mark.parametrize(
    "rows", [None, 3, "a", [], ROWS[0], ROWS[:, :2], ROWS * np.nan, ROWS.astype(object)]
)
def test_what_are_no_vectors_is_refused(codec, rows):
    with pytest.raises(ValueError, match=r"^\[decode\] vectors must be "):
        codec.decode(rows)


# Files -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "link",
    [lambda to, path: path.symlink_to(to), lambda to, path: path.hardlink_to(to)],
)
def test_the_input_is_no_output_under_any_name(tmp_path, link, monkeypatch):
    source = tmp_path / "in.npy"
    source.write_bytes(b"vectors")
    link(source, tmp_path / "out.txt")
    monkeypatch.chdir(tmp_path)
    for name in ("out.txt", "./out.txt", str(tmp_path / "out.txt")):
        with pytest.raises(InputError, match="must be a new file, got the input"):
            require_output(name, ".txt", "in.npy")
    assert source.read_bytes() == b"vectors"


@pytest.mark.parametrize("name", ["", ".", "..", ".txt", "a.npy", "a\0.txt", "a/.txt"])
def test_a_name_that_no_output_can_have_is_refused(name):
    with pytest.raises(InputError, match=r"must be a name that ends in \.txt"):
        require_output(name, ".txt")


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"", []),
        (b"\xef\xbb\xbf", []),
        (b"\xef\xbb\xbfa\nb", ["a", "b"]),
        (b"a\rb\rc", ["a\rb\rc"]),
        (b"a\r\nb\n", ["a", "b"]),
        (b"x" * 2**20 + b"\ny", ["x" * 2**20, "y"]),
    ],
    ids=[
        "empty",
        "mark alone",
        "mark",
        "carriage returns",
        "both",
        "a million letters",
    ],
)
def test_only_a_line_feed_ends_a_line_and_a_byte_order_mark_is_no_text(
    tmp_path, content, lines
):
    (tmp_path / "a.txt").write_bytes(content)
    assert [line for _, line in read_lines(tmp_path / "a.txt")] == lines


def test_a_nul_byte_is_no_text(tmp_path):
    (tmp_path / "a.txt").write_bytes("a dog\na cat\n".encode("utf-16-le"))
    with pytest.raises(InputError, match="line 1: expected UTF-8 text, got a NUL byte"):
        list(read_lines(tmp_path / "a.txt"))


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_npy_of_floats_is_read(tmp_path, version, dtype, order):
    rows = np.asarray([[1.5, 2, 3], [4, 5, -6]], dtype, order=order)
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array(file, rows, version=version)
    np.testing.assert_array_equal(open_matrix(tmp_path / "a.npy"), rows)


# JSON --------------------------------------------------------------------------------


def test_what_is_no_number_is_null_in_json():
    values = {"a": [math.nan, (math.inf, 1.5)], "b": -math.inf, "c": "NaN", "d": None}
    expected = {"a": [None, [None, 1.5]], "b": None, "c": "NaN", "d": None}
    assert json.loads(json_text(values), parse_constant=pytest.fail) == expected


# What they are given was checked before, or goes to another process alone.
_CHECKED = {"teacher/folder.py", "runtime/distributed.py"}


def test_no_writer_of_the_package_lets_nan_into_json():
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or ast.unparse(node.func) != "json.dumps":
                continue
            if "allow_nan" not in {keyword.arg for keyword in node.keywords}:
                found.append(path.relative_to(PACKAGE).as_posix())
    assert set(found) <= _CHECKED, found
