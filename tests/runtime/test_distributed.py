"""Groups of processes: alone nothing changes; together all hold the same bits."""

import os
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.errors import InputError, ProcessLost
from energyflow_mlx.runtime import distributed
from energyflow_mlx.runtime.distributed import ALONE, Group
from tests.processes import call, finish, start

SIZE = 3


def own_arrays(rank):
    """What one process brings: two formats, an empty and a scalar array among them."""
    rng = np.random.default_rng(rank)
    shapes = [(37, 11), (), (5, 3, 2), (0, 4), (1001,)]
    arrays = [mx.array(rng.normal(size=s).astype(np.float32)) for s in shapes]
    return [*arrays, mx.array([rank, 2**20]), arrays[0].astype(mx.bfloat16)]


def talk(folder):
    """Runs in each process: everything a group does, saved by rank."""
    group = distributed.join()
    distributed.BUFFER_BYTES = 2000  # several buffers
    summed = mx.compile(group.sum)(own_arrays(group.rank))
    first = group.arrays_of_first({"x": mx.array([group.rank + 7.0])})["x"]
    said = group.of_first(lambda: {"Grüße": [1.5, None, group.rank]})
    again = distributed.join()
    assert (again.rank, again.size) == (group.rank, group.size)
    arrays = {str(i): np.array(a.astype(mx.float32)) for i, a in enumerate(summed)}
    np.savez(Path(folder) / f"{group.rank}.npz", **arrays, first=np.array(first))
    assert said == {"Grüße": [1.5, None, 0]}
    sys.stdout.write(f"{group.is_writer}{group}\n{os.environ.get('TMPDIR')}")


@pytest.fixture(scope="module")
def talked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("talk")
    outputs = call(talk, SIZE, folder, folder, compiles=True)
    return [dict(np.load(folder / f"{rank}.npz")) for rank in range(SIZE)], outputs


def test_sums_are_those_of_all_processes(talked):
    results, _ = talked
    for number, parts in enumerate(zip(*map(own_arrays, range(SIZE)), strict=True)):
        wanted = sum(np.array(p.astype(mx.float32)) for p in parts)
        tolerance = 0.1 if parts[0].dtype == mx.bfloat16 else 1e-5
        found = results[0][str(number)]
        assert found.shape == parts[0].shape
        np.testing.assert_allclose(found, wanted, atol=tolerance)


def test_all_processes_hold_the_same_bits(talked):
    first, *others = talked[0]
    for other in others:
        assert {k: v.tobytes() for k, v in first.items()} == {
            k: v.tobytes() for k, v in other.items()
        }


def test_arrays_of_the_first_process_reach_the_others(talked):
    assert [result["first"].item() for result in talked[0]] == [7.0] * SIZE


def test_only_the_first_process_writes(talked):
    said = [output.splitlines()[0] for output, _ in talked[1]]
    assert said == [f"{rank == 0}, {SIZE} processes" for rank in range(SIZE)]


def test_no_process_compiles_where_another_does(talked):
    first, *others = [output.splitlines()[1] for output, _ in talked[1]]
    assert first == str(os.environ.get("TMPDIR"))
    assert len({first, *others}) == SIZE and all(map(os.path.isdir, others))


def test_alone_a_group_returns_what_it_is_given():
    arrays = own_arrays(0)
    assert all(a is b for a, b in zip(ALONE.sum(arrays), arrays, strict=True))
    named = {"x": arrays[0]}
    assert ALONE.arrays_of_first(named) is named
    marker = object()  # no JSON on the way
    assert ALONE.of_first(lambda: marker) is marker
    assert ALONE.is_writer and str(ALONE) == ""


def test_a_process_that_nobody_launched_is_alone(monkeypatch):
    for name in distributed._RANKS:
        monkeypatch.delenv(name, raising=False)
    assert distributed.join() is ALONE
    monkeypatch.setenv("MLX_RANK", "0")  # mlx.launch -n 1
    assert distributed.join() is ALONE


def test_a_launched_process_without_a_group_is_refused(monkeypatch):
    monkeypatch.setenv("MLX_RANK", "1")
    with pytest.raises(InputError, match="process 1 must find the others"):
        distributed.join()


def test_buffers_keep_order_format_and_size(monkeypatch):
    monkeypatch.setattr(distributed, "BUFFER_BYTES", 40)
    arrays = [mx.zeros(n) for n in (4, 5, 2, 30, 1)]
    arrays += [mx.zeros(3, mx.int32), mx.zeros(3)]
    buffers = list(distributed._buffers(arrays))
    assert [a.size for b in buffers for a in b] == [a.size for a in arrays]
    assert [[a.size for a in b] for b in buffers] == [[4, 5], [2], [30], [1], [3], [3]]
    assert all(len({a.dtype for a in b}) == 1 for b in buffers)
    assert list(distributed._buffers([])) == []


def test_only_errors_of_communication_name_a_lost_process():
    group = Group(0, 2)
    with pytest.raises(ProcessLost, match="process 0 of 2 must reach the others"):
        with group.watched():
            raise RuntimeError("evaluation got: [ring] connection to a peer was lost")
    with pytest.raises(RuntimeError, match="out of memory") as caught:
        with group.watched():
            raise RuntimeError("[malloc] out of memory")
    assert not isinstance(caught.value, ProcessLost)
    with pytest.raises(RuntimeError, match=r"\[ring\]") as caught, ALONE.watched():
        raise RuntimeError("[ring] of nobody")
    assert not isinstance(caught.value, ProcessLost)


def leave(folder):
    """Runs in each process: the second leaves, the first waits for it."""
    group = distributed.join()
    if group.rank == 1:
        return
    try:
        for _ in range(3):
            group.of_first(lambda: "there?")
    except ProcessLost as error:
        sys.stdout.write(f"{error}")


def test_a_process_that_leaves_is_missed_at_once(tmp_path):
    code = "from tests.runtime.test_distributed import leave; leave('')"
    (said, errors), _ = finish(start(2, tmp_path, ["-c", code]))
    assert "another process has ended" in said.lower(), errors
