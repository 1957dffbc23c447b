"""A function of the user's is a teacher like any other, and its mistakes are named."""

import sys

import numpy as np
import pytest

from energyflow_mlx.config import TeacherConfig
from energyflow_mlx.errors import InputError
from energyflow_mlx.teacher import (
    FunctionTeacher,
    cached_vectors,
    import_function,
    teacher_from,
)

TEXTS = ["a man sits", "the big dog runs", "a man sits", "cat", ""]


def letters(texts):
    """How often each of eight letters occurs, plus one."""
    return np.array([[1 + text.count(c) for c in "aeiousth"] for text in texts], float)


def teacher_of(function, normalize=True, version="", name="here:letters"):
    return FunctionTeacher(function, name=name, version=version, normalize=normalize)


def test_vectors_are_the_functions_in_the_order_of_the_texts():
    raw = teacher_of(letters, normalize=False).encode(TEXTS)
    assert raw.dtype == np.float32
    assert np.array_equal(raw, letters(TEXTS).astype(np.float32))
    scaled = teacher_of(letters).encode(TEXTS)
    lengths = np.linalg.norm(raw, axis=1, keepdims=True)
    np.testing.assert_allclose(scaled, raw / lengths, atol=1e-6)


@pytest.mark.parametrize(("size", "calls"), [(0, [4]), (1, [1, 1, 1, 1]), (3, [3, 1])])
def test_batch_size_bounds_a_call_and_equal_texts_are_asked_once(size, calls):
    asked = []

    def spy(texts):
        assert isinstance(texts, list)
        asked.append(len(texts))
        return letters(texts)

    teacher = teacher_of(spy)
    assert teacher.dimension == 8
    asked.clear()  # one call has shown the width
    done = []
    teacher.encode(TEXTS, batch_size=size, progress=lambda *count: done.append(count))
    assert asked == calls
    assert done[-1] == (4, 4)


def test_name_version_and_scaling_decide_the_entry_of_the_cache(tmp_path):
    variants = [{}, {"version": "2"}, {"name": "here:other"}, {"normalize": False}]
    prints = {teacher_of(letters, **changes).fingerprint for changes in variants}
    assert len(prints) == 4
    for changes in variants:
        teacher = teacher_of(letters, **changes)
        cached_vectors(teacher, TEXTS, tmp_path, batch_size=0)
    assert len(list(tmp_path.iterdir())) == 4

    def fails(texts):
        assert texts == ["A dog runs on the beach."]  # the width alone is asked for
        return letters(texts)

    again = cached_vectors(teacher_of(fails), TEXTS, tmp_path, batch_size=0)
    assert np.array_equal(again, teacher_of(letters).encode(TEXTS))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda texts: letters(texts)[0], r"floats \[1, E\].* float64 \[8\]"),
        (lambda texts: letters(texts)[:-1], r"one row per text, got float64 \[0, 8\]"),
        (lambda texts: letters(texts).astype(int), r"got int64 \[1, 8\]"),
        (lambda texts: texts, r"got <U24 \[1\]"),
        (lambda texts: [[1.0], [1.0, 2.0]], r"floats \[1, E\]: "),
        (lambda texts: None, r"got object \[\]"),
    ],
)
def test_another_shape_or_dtype_is_refused(function, message):
    with pytest.raises(InputError, match=r"here:letters must give .*" + message):
        teacher_of(function).encode(TEXTS[:1])


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0, 1e300])
def test_the_text_of_an_impossible_vector_is_named(bad):
    def function(texts):
        rows = letters(texts)
        rows[[text == "cat" for text in texts]] = bad
        return rows

    with pytest.raises(InputError, match="vector of 'cat' must be .* norm"):
        teacher_of(function).encode(TEXTS)


def test_a_text_that_a_decoder_made_up_may_have_no_vector():
    def function(texts):
        return letters(texts) * [[text != "cat"] for text in texts]

    rows = teacher_of(function).encode(TEXTS, may_be_zero=True)
    assert not rows[3].any() and rows[[0, 1, 2, 4]].any(axis=1).all()

    def broken(texts):
        return function(texts) * [[np.nan if text == "" else 1] for text in texts]

    with pytest.raises(InputError, match="vector of '' must .* got norm nan"):
        teacher_of(broken).encode(TEXTS, may_be_zero=True)


def test_a_width_that_changes_is_refused():
    def function(texts):
        return letters(texts)[:, : 8 if len(texts) == 1 else 7]

    with pytest.raises(InputError, match="vectors of 8 numbers each time, got 7"):
        teacher_of(function).encode(TEXTS)


def test_what_the_function_raises_passes_through():
    def function(texts):
        raise KeyError("no such model")

    with pytest.raises(KeyError, match="no such model"):
        teacher_of(function).encode(TEXTS)


def test_a_single_string_is_not_a_list():
    with pytest.raises(TypeError, match="must be a list of strings"):
        teacher_of(letters).encode("cat")


# Names -------------------------------------------------------------------------------


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module of the user's that leaves a trace where it is imported."""
    lines = [
        "import pathlib",
        f"pathlib.Path({str(tmp_path)!r}, 'imported').touch()",
        "size = 3",
        "def embed(texts): return [[1.0, 2.0] for _ in texts]",
    ]
    (tmp_path / "users_own.py").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("users_own", None)


def test_a_name_that_the_user_types_is_imported(module):
    function = import_function("users_own:embed")
    assert function(["a", "b"]) == [[1.0, 2.0], [1.0, 2.0]]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("users_own", r"must be package\.module:name, got 'users_own'"),
        (":embed", r"must be package\.module:name"),
        ("users_own:embed()", r"must be package\.module:name"),
        ("users_owl:embed", "no module 'users_owl'"),
        ("users_own:embd", "users_own must have a function 'embd'"),
        ("users_own:size", "must have a function 'size', got int"),
    ],
)
def test_a_name_of_nothing_is_refused(module, name, message):
    with pytest.raises(InputError, match=message):
        import_function(name)


def test_a_name_in_settings_is_never_imported(module):
    settings = TeacherConfig(kind="callable", function="users_own:embed")
    with pytest.raises(InputError, match="never imported because a file names it"):
        teacher_from(settings)
    teacher = teacher_from(settings, letters)
    assert teacher.name == "users_own:embed"
    assert np.array_equal(teacher.encode(TEXTS), teacher_of(letters).encode(TEXTS))
    assert not (module / "imported").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "callable"}, r"function must be package\.module:name, got None"),
        ({"function": "a:b"}, "function must be unset unless teacher=callable"),
        ({"version": "2"}, "version must be unset unless teacher=callable"),
        ({"kind": "callable", "function": "a:b", "prompt": "q"}, "prompt must be unse"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        TeacherConfig(**settings)
