"""Vectors are computed once, survive a kill, and are never served damaged."""

import json
import logging
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from energyflow_mlx.errors import DiskError, InputError
from energyflow_mlx.teacher import cache
from energyflow_mlx.teacher.cache import cached_vectors

CHECKOUT = Path(__file__).resolve().parents[2]
DIMENSION = 5
TEXTS = [f"sentence {i % 9}" for i in range(12)]  # 9 distinct ones


class CountingTeacher:
    """Vectors that are a function of the text; remembers what it was asked."""

    name = "counting"
    dimension = DIMENSION
    max_length = 16
    normalized = True
    fingerprint = "f"

    def __init__(self, fail_at=None):
        self.asked = []
        self.fail_at = fail_at

    def encode(self, texts, *, batch_size=64, progress=None):
        if self.fail_at in texts:
            raise KeyboardInterrupt
        self.asked += texts
        if progress is not None:
            progress(len(texts), len(texts))
        return vectors_of(texts)


def vectors_of(texts):
    seeds = [int(text.split()[1]) for text in texts]
    return np.array([[s + 1] * DIMENSION for s in seeds], np.float32)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(cache, "SHARD_TEXTS", 4)


def entry_of(folder):
    (entry,) = [path for path in folder.iterdir() if path.is_dir()]
    return entry


def test_rows_follow_the_texts(tmp_path):
    vectors = cached_vectors(CountingTeacher(), TEXTS, tmp_path, batch_size=64)
    assert isinstance(vectors, np.memmap) and not vectors.flags.writeable
    assert vectors.dtype == np.float32
    assert np.array_equal(vectors, vectors_of(TEXTS))


def test_rows_follow_texts_that_come_again_in_another_order(tmp_path):
    texts = [f"sentence {i}" for i in (3, 1, 3, 8, 1, 0, 8, 5, 3, 4, 0)]
    vectors = cached_vectors(CountingTeacher(), texts, tmp_path, batch_size=64)
    assert np.array_equal(vectors, vectors_of(texts))


def test_each_distinct_text_is_computed_once(tmp_path):
    teacher = CountingTeacher()
    cached_vectors(teacher, TEXTS, tmp_path, batch_size=64)
    cached_vectors(teacher, list(TEXTS), tmp_path, batch_size=64)
    assert teacher.asked == TEXTS[:9]


def test_finished_entry_holds_no_working_files(tmp_path):
    cached_vectors(CountingTeacher(), TEXTS, tmp_path, batch_size=64)
    names = {path.name for path in entry_of(tmp_path).iterdir()}
    assert names == {"vectors.npy", "entry.json", "lock"}
    entry = json.loads((entry_of(tmp_path) / "entry.json").read_text())
    assert (entry["max_length"], entry["normalized"]) == (16, True)


@pytest.mark.parametrize(
    "change",
    [
        {"fingerprint": "g"},
        {"max_length": 17},
        {"normalized": False},
        {"texts": TEXTS[::-1]},
        {"texts": TEXTS[:-1]},
        {"texts": ["sentence 1sentence 2", *TEXTS[1:]]},
    ],
)
def test_anything_that_decides_the_vectors_decides_the_entry(change):
    changed = CountingTeacher()
    for name, value in change.items():
        setattr(changed, name, value)
    texts = change.get("texts", TEXTS)
    assert cache._key(changed, texts) != cache._key(CountingTeacher(), TEXTS)


def test_texts_are_kept_apart_in_the_key():
    teacher = CountingTeacher()
    assert cache._key(teacher, ["ab", "c"]) != cache._key(teacher, ["a", "bc"])


def test_interrupted_run_goes_on_with_the_next_shard(tmp_path):
    first = CountingTeacher(fail_at="sentence 8")
    with pytest.raises(KeyboardInterrupt):
        cached_vectors(first, TEXTS, tmp_path, batch_size=64)
    assert first.asked == TEXTS[:8]
    second = CountingTeacher()
    calls = []
    vectors = cached_vectors(
        second,
        TEXTS,
        tmp_path,
        progress=lambda *done: calls.append(done),
        batch_size=64,
    )
    assert second.asked == TEXTS[8:9]
    assert calls[0] == (4, 9) and calls[-1] == (9, 9)
    assert np.array_equal(vectors, vectors_of(TEXTS))


def test_killed_process_leaves_a_usable_cache(tmp_path):
    """A kill in the middle of a write: the half-written file is not trusted."""
    program = textwrap.dedent(
        """
        import os, signal, sys
        from pathlib import Path
        from energyflow_mlx.teacher import cache
        from tests.teacher.test_cache import CountingTeacher, TEXTS
        import numpy as np
        cache.SHARD_TEXTS = 4
        written = []
        def write(path, data, real=Path.write_bytes):
            written.append(path)
            if len(written) == 2:
                real(path, data[:50])
                os.kill(os.getpid(), signal.SIGKILL)
            return real(path, data)
        Path.write_bytes = write
        cache.cached_vectors(
            CountingTeacher(), TEXTS, Path(sys.argv[1]), batch_size=64
        )
        """
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=CHECKOUT)
    assert done.returncode == -9
    assert list(entry_of(tmp_path).glob(".tmp-*"))
    teacher = CountingTeacher()
    vectors = cached_vectors(teacher, TEXTS, tmp_path, batch_size=64)
    assert teacher.asked == TEXTS[4:9]
    assert np.array_equal(vectors, vectors_of(TEXTS))
    assert not list(entry_of(tmp_path).glob(".tmp-*"))


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[:-4])


@pytest.mark.parametrize("damage", [flip, cut, lambda path: path.unlink()])
def test_damaged_vectors_are_said_and_rebuilt(tmp_path, caplog, damage):
    cached_vectors(CountingTeacher(), TEXTS, tmp_path, batch_size=64)
    damage(entry_of(tmp_path) / "vectors.npy")
    teacher = CountingTeacher()
    with caplog.at_level(logging.WARNING):
        vectors = cached_vectors(teacher, TEXTS, tmp_path, batch_size=64)
    assert "Cached teacher vectors rebuilt" in caplog.text
    assert teacher.asked == TEXTS[:9]
    assert np.array_equal(vectors, vectors_of(TEXTS))


@pytest.mark.parametrize("content", ["", "[]", '{"rows": 12}'])
def test_damaged_entry_is_said_and_rebuilt(tmp_path, caplog, content):
    cached_vectors(CountingTeacher(), TEXTS, tmp_path, batch_size=64)
    (entry_of(tmp_path) / "entry.json").write_text(content)
    vectors = cached_vectors(CountingTeacher(), TEXTS, tmp_path, batch_size=64)
    assert "Cached teacher vectors rebuilt" in caplog.text
    assert np.array_equal(vectors, vectors_of(TEXTS))


def test_damaged_shard_is_said_and_rebuilt(tmp_path, caplog):
    with pytest.raises(KeyboardInterrupt):
        cached_vectors(
            CountingTeacher(fail_at="sentence 8"), TEXTS, tmp_path, batch_size=64
        )
    flip(entry_of(tmp_path) / "00001.shard")
    teacher = CountingTeacher()
    vectors = cached_vectors(teacher, TEXTS, tmp_path, batch_size=64)
    assert "00001.shard is damaged" in caplog.text
    assert teacher.asked == TEXTS[4:9]
    assert np.array_equal(vectors, vectors_of(TEXTS))


def test_vectors_that_are_not_finite_raise_and_leave_no_shard(tmp_path):
    """A failing teacher must raise, and its output must not stay."""

    class Broken(CountingTeacher):
        def encode(self, texts, **options):
            vectors = super().encode(texts, **options)
            vectors[1, 2] = np.inf
            return vectors

    with pytest.raises(InputError, match="vector of 'sentence 1' must be finite"):
        cached_vectors(Broken(), TEXTS, tmp_path, batch_size=64)
    assert not list(tmp_path.iterdir())  # not an empty entry either


def test_vectors_of_another_width_raise(tmp_path):
    teacher = CountingTeacher()
    teacher.dimension = 6
    with pytest.raises(InputError, match=r"must give vectors \[4, 6\], got \[4, 5\]"):
        cached_vectors(teacher, TEXTS, tmp_path, batch_size=64)


def test_no_texts_need_no_entry(tmp_path):
    assert cached_vectors(
        CountingTeacher(), [], tmp_path / "x", batch_size=64
    ).shape == (0, 5)
    assert not (tmp_path / "x").exists()


def test_unusable_cache_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match="Not a directory: .*file is a file"):
        cached_vectors(CountingTeacher(), TEXTS, tmp_path / "file", batch_size=64)


def test_lone_surrogate_in_a_text_is_no_obstacle():
    assert cache._key(CountingTeacher(), ["\ud800"]) != cache._key(
        CountingTeacher(), ["?"]
    )
