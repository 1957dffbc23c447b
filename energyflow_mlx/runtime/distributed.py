"""The processes that train one model together: rank, size, sums, one that writes.

A process started by ``mlx.launch`` belongs to a group of several; any other is alone, a
group of one, whose sums are what they are given. So no other room asks which it is.
Communication is MLX's (``mx.distributed``): a ring of TCP sockets between CPUs or Macs,
NCCL between NVIDIA GPUs.

Every process must ask for the same sums in the same order. They do, because the plan of
a run is a pure function of its configuration, and what one process alone decides
reaches the others through ``of_first``.
"""

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import mlx.core as mx
import numpy as np

from energyflow_mlx.errors import InputError, ProcessLost

Json = TypeVar("Json")

# Few large messages: a ring needs 2 (n - 1) hops for each, whatever its size.
BUFFER_BYTES = 32 * 2**20
# What mlx.launch and the launchers of MPI tell every process: its number.
_RANKS = ("MLX_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK")
# How MLX's backends begin an error of theirs.
_OF_BACKENDS = ("[ring]", "[nccl]", "[jaccl]", "[mpi]", "NCCL")


@dataclass(frozen=True)
class Group:
    """The processes of one run, seen from one of them.

    Attributes:
        rank: Number of this process, from 0.
        size: Number of processes.
    """

    rank: int = 0
    size: int = 1
    _group: mx.distributed.Group | None = None

    @property
    def is_writer(self) -> bool:
        """Whether this process writes files and shows the run: the first one does."""
        return self.rank == 0

    def __str__(self) -> str:
        """For the run header, after the device; nothing where there is one process."""
        return "" if self.size == 1 else f", {self.size} processes"

    def sum(self, arrays: Sequence[mx.array]) -> list[mx.array]:
        """Sums of arrays over all processes; lazy, and may be compiled.

        Arrays travel in flat buffers of about 32 MiB, each of one dtype. All processes
        get the same bits.

        Args:
            arrays: The same shapes and dtypes in the same order in every process.

        Returns:
            The sums, in that order.
        """
        if self.size == 1:
            return list(arrays)
        summed: list[mx.array] = []
        last: mx.array | None = None
        for members in _buffers(arrays):
            flat = mx.concatenate([a.reshape(-1) for a in members])
            if last is not None:  # or two processes could send in different orders
                (flat,) = mx.depends([flat], [last])
            last = mx.distributed.all_sum(flat, group=self._group)
            ends = np.cumsum([a.size for a in members])[:-1]
            parts = mx.split(last, ends.tolist())
            summed += [p.reshape(a.shape) for p, a in zip(parts, members, strict=True)]
        return summed

    def arrays_of_first(self, arrays: dict[str, mx.array]) -> dict[str, mx.array]:
        """The first process's arrays, by name, in every process; computed at once."""
        if self.size == 1:
            return arrays
        names = sorted(arrays)  # a loaded state has its file's order
        own = [arrays[n] if self.is_writer else mx.zeros_like(arrays[n]) for n in names]
        summed = self.sum(own)
        with self.watched():
            mx.eval(summed)
        return dict(zip(names, summed, strict=True))

    def of_first(self, make: Callable[[], Json]) -> Json:
        """What ``make`` returns in the first process, which alone calls it.

        Args:
            make: Returns what JSON can hold.

        Returns:
            The same value in every process.
        """
        if self.size == 1:
            return make()
        text = json.dumps(make()).encode() if self.is_writer else b""
        length = int(self._total(np.array([len(text)]))[0])
        own = np.frombuffer(text.ljust(length, b"\0"), np.uint8)
        whole = self._total(own).astype(np.uint8).tobytes()
        value: Json = json.loads(whole)
        return value

    def _total(self, values: np.ndarray) -> np.ndarray:
        """Sum of small integers over all processes, computed at once."""
        (total,) = self.sum([mx.array(values.astype(np.int32))])
        with self.watched():
            mx.eval(total)  # NumPy's own read would hide or hang on a lost process
        return np.array(total)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Inside, the loss of another process is an error that says so.

        Raises:
            ProcessLost: Another process has ended or cannot be reached.
        """
        try:
            yield
        except RuntimeError as error:
            reason = str(error)
            places = [reason.find(word) for word in _OF_BACKENDS if word in reason]
            if self.size == 1 or not places:
                raise
            raise ProcessLost(
                f"[distributed] process {self.rank} of {self.size} must reach the "
                f"others, got: {reason[min(places) :]}; another process has ended, "
                "and its own message says why. The same command continues from the "
                "last checkpoint."
            ) from error


ALONE = Group()


def join() -> Group:
    """The group that this process was launched into, or a group of one.

    Returns:
        The group; the same one however often it is asked for.

    Raises:
        InputError: ``mlx.launch`` started this process as one of several, and MLX
            cannot connect them.
    """
    launched_as = [int(os.environ[name]) for name in _RANKS if name in os.environ]
    if not launched_as:
        return ALONE
    group = mx.distributed.init()
    if group.size() > 1:
        _separate_compiler(group.rank())
        return Group(group.rank(), group.size(), group)
    if launched_as[0] > 0:
        raise InputError(
            f"[distributed] process {launched_as[0]} must find the others, got none: "
            "this build of MLX lacks the backend that the launcher was told to use."
        )
    return ALONE


def _separate_compiler(rank: int) -> None:
    """Give each process but the first a folder of its own for fused expressions.

    On a CPU MLX writes their libraries in place, under names that processes of one
    machine share: one could load what another has half written.
    """
    if rank > 0:
        shared = tempfile.gettempdir()  # Python remembers this answer; MLX asks TMPDIR
        folder = Path(shared, f"energyflow_mlx_{os.getuid()}_process_{rank}")
        folder.mkdir(mode=0o700, exist_ok=True)
        os.environ["TMPDIR"] = str(folder)


def _buffers(arrays: Sequence[mx.array]) -> Iterator[list[mx.array]]:
    """Neighbors of one dtype, together at most ``BUFFER_BYTES`` unless one is more."""
    members: list[mx.array] = []
    size = 0
    for array in arrays:
        is_other = bool(members) and array.dtype != members[0].dtype
        if is_other or size + array.nbytes > BUFFER_BYTES:
            if members:
                yield members
            members, size = [], 0
        members.append(array)
        size += array.nbytes
    if members:
        yield members
