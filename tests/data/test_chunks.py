"""Rows come back complete and in place, in few shapes, whatever the chunks."""

import itertools
import threading

import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.data import chunks
from energyflow_mlx.data.chunks import (
    chunk_rows,
    padded_length,
    plan_chunks,
    run_chunks,
)


def rows_of(lengths):
    return [np.arange(1, n + 1, dtype=np.int32) for n in lengths]


def row_sums(ids, mask):
    real = ids if mask is None else ids * mask
    return real.sum(axis=1, keepdims=True)


@pytest.fixture
def lengths():
    return np.random.default_rng(0).integers(1, 129, 400)


@pytest.mark.parametrize(
    ("batch_size", "tokens"), [(64, 512), (1, 512), (7, 100), (0, 512), (0, 2)]
)
def test_every_row_is_in_one_chunk_that_fits(lengths, batch_size, tokens):
    chunks = plan_chunks(lengths, batch_size, tokens)
    members = np.concatenate([indices for _, indices in chunks])
    assert sorted(members) == list(range(len(lengths)))
    for length, indices in chunks:
        assert lengths[indices].max() <= length
        assert len(indices) <= (batch_size or tokens)
        assert len(indices) == 1 or len(indices) * length <= tokens


def test_padding_is_a_small_share(lengths):
    chunks = plan_chunks(lengths, 64, 512)
    padded = sum(length * len(indices) for length, indices in chunks)
    assert padded / lengths.sum() < 1.1


def test_padded_lengths_are_few():
    padded = {padded_length(n) for n in range(1, 129)}
    assert len(padded) <= 32
    assert all(padded_length(n) >= n for n in range(1, 129))


def test_shapes_are_bounded():
    """Each shape is traced once and kept, so their number must not grow with data."""
    seen = set()

    def forward(ids, mask):
        seen.add(ids.shape)
        return row_sums(ids, mask)

    rng = np.random.default_rng(1)
    for count in rng.integers(1, 300, 20):
        rows = rows_of(rng.integers(1, 41, count))
        list(run_chunks(forward, [rows], 64, 128))
    full = {(chunk_rows(length, 64, 512), length) for _, length in seen}
    partial = {rows for rows, length in seen - full}
    assert partial <= {1, 2, 4, 8, 16, 32, 64}


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_results_belong_to_their_rows(lengths, batch_size):
    out = np.zeros((len(lengths), 1))
    for members, y in run_chunks(row_sums, [rows_of(lengths)], batch_size, 128):
        out[members] += y  # a row given twice would show
    assert np.array_equal(out[:, 0], lengths * (lengths + 1) / 2)


def test_rows_count_on_over_windows(lengths):
    out = np.zeros((len(lengths), 1))
    windows = [rows_of(lengths[a:b]) for a, b in ((0, 3), (3, 3), (3, 250), (250, 400))]
    for members, y in run_chunks(row_sums, windows, 0, 128):
        out[members] += y
    assert np.array_equal(out[:, 0], lengths * (lengths + 1) / 2)


def prepared_on(rows, names):
    for row in rows:
        names.append(threading.current_thread().name)
        yield rows_of([row])


def test_windows_are_prepared_on_a_thread_and_computed_on_the_callers():
    prepared, computed = [], []

    def forward(ids, mask):
        computed.append(threading.current_thread())
        return row_sums(ids, mask)

    list(run_chunks(forward, prepared_on([3, 4, 5], prepared), 0, 128))
    assert set(prepared) == {"prefetch"}
    assert set(computed) == {threading.current_thread()}


def is_preparing():
    return "prefetch" in {thread.name for thread in threading.enumerate()}


def test_an_error_of_a_window_comes_through_and_its_thread_ends():
    def windows():
        yield rows_of([3])
        raise UnicodeError("line 2")

    with pytest.raises(UnicodeError, match="line 2"):
        list(run_chunks(row_sums, windows(), 0, 128))
    assert not is_preparing()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_the_thread_ends_when_the_computation_is_interrupted(error):
    def fail(ids, mask):
        raise error

    endless = (rows_of([n % 7 + 1]) for n in itertools.count())
    with pytest.raises(error):
        list(run_chunks(fail, endless, 0, 128))
    assert not is_preparing()


def test_the_thread_ends_with_a_reader_that_stops_early():
    found = run_chunks(
        row_sums, (rows_of([n % 7 + 1]) for n in itertools.count()), 0, 9
    )
    next(found)
    assert is_preparing()
    found.close()
    assert not is_preparing()


def test_input_never_exceeds_the_limit():
    seen = []
    rows = rows_of([13, 13])
    list(run_chunks(lambda i, m: seen.append(i.shape) or i, [rows], 64, 13))
    assert seen == [(2, 13)]


def test_no_rows_give_no_chunks():
    assert list(run_chunks(row_sums, [], 64, 128)) == []
    assert list(run_chunks(row_sums, [[], []], 64, 128)) == []


def test_mask_is_absent_only_without_padding():
    masks = []
    forward = lambda ids, mask: masks.append(mask) or ids  # noqa: E731
    list(run_chunks(forward, [rows_of([4, 4])], 64, 128))
    list(run_chunks(forward, [rows_of([4, 3])], 64, 128))
    assert masks[0] is None
    assert np.array_equal(masks[1], [[1, 1, 1, 1], [1, 1, 1, 0]])


@pytest.fixture
def two_blas_threads():
    set_threads = chunks._openblas("set_num_threads")
    if set_threads is None:
        pytest.skip("needs OpenBLAS; MLX multiplies with another library here")
    before = chunks._blas_threads()
    set_threads(2)
    chunks._cpu_streams.cache_clear()
    yield
    set_threads(before)
    chunks._cpu_streams.cache_clear()


@pytest.mark.usefixtures("two_blas_threads")
def test_blas_is_held_to_one_thread_and_let_go(lengths):
    threads = []

    def forward(ids, mask):
        threads.append(chunks._blas_threads())
        return row_sums(ids, mask)

    list(run_chunks(forward, [rows_of(lengths)], 64, 128))
    assert set(threads) == {1}
    assert chunks._blas_threads() == 2

    def fail(ids, mask):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(run_chunks(fail, [rows_of(lengths)], 64, 128))
    assert chunks._blas_threads() == 2


@pytest.mark.usefixtures("two_blas_threads")
def test_several_streams_give_the_same_result(lengths, monkeypatch):
    rows = rows_of(lengths % 20 + 1)
    table = mx.random.normal((130, 8))
    mx.eval(table)

    @mx.compile
    def features(x):
        return mx.tanh(x) * 2.0

    def forward(ids, mask):
        return features(table[ids]).sum(axis=1)

    def collect():
        out = np.zeros((len(rows), 8), np.float32)
        for members, y in run_chunks(forward, [rows], 16, 128):
            out[members] = y
        return out

    assert len(chunks._cpu_streams()) == 2
    several = collect()
    with monkeypatch.context() as patch:
        patch.setattr(chunks, "_cpu_streams", lambda: (mx.default_stream(mx.cpu),))
        assert np.abs(several - collect()).max() < 1e-5
