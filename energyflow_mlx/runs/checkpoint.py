"""Checkpoints: one folder per step, safetensors and JSON, digests checked.

A checkpoint is a folder ``step_00000123`` of ``<group>.safetensors`` files, grouped by
the first part of the array names (``model.encoder.bias`` goes to ``model``), and one
``checkpoint.json`` with the format version, step, meta data and, for every file, its
size, sha256, shapes and dtypes. It is written aside, flushed and renamed, so a kill at
any moment leaves the earlier checkpoints whole. Nothing is pickled, and loading
instantiates nothing by name. One process writes to a folder; any number may read.
"""

import logging
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx

from energyflow_mlx.errors import InputError
from energyflow_mlx.runs.header import (
    HEADER,
    VersionError,
    new_header,
    read_header,
    write_header,
)
from energyflow_mlx.runs.step_folders import (
    candidates,
    folder_of,
    publish,
    remove,
    remove_leftovers,
    settle,
    step_of,
    twin_of,
)
from energyflow_mlx.runs.weights import (
    Arrays,
    bytes_of,
    describe,
    grouped,
    read_arrays,
    write_arrays,
)
from energyflow_mlx.runtime.atomic import TEMPORARY_PREFIX, flush
from energyflow_mlx.runtime.disk import writing

logger = logging.getLogger(__name__)


def save(
    folder: Path,
    step: int,
    arrays: Mapping[str, mx.array],
    meta: Mapping[str, Any],
    *,
    keep: int,
    protect: Collection[int] = (),
) -> Path:
    """Write the checkpoint of a step and prune older ones.

    Args:
        folder: Folder of all checkpoints of the run; created when missing.
        step: Step number, at least 0. An existing checkpoint of it is replaced.
        arrays: Named arrays, evaluated already. Nothing in it is changed.
        meta: Everything else, as JSON values; non-finite numbers are refused.
        keep: How many checkpoints up to this step stay, the new one included; 0 keeps
            all of them.
        protect: Steps that are never pruned, such as the best one.

    Returns:
        The folder of the new checkpoint.

    Raises:
        ValueError: Bad step, keep, array name or meta data; nothing is written.
        DiskError: The disk is full or not writable; earlier checkpoints are whole.
    """
    header = new_header(step, meta)
    groups = grouped(arrays)
    if keep < 0:
        raise ValueError(f"[checkpoint] keep must be at least 0, got {keep}.")
    final = folder_of(folder, step)
    with writing(final, sum(sizes_of(arrays))):
        _write(final, header, groups)
        prune(Path(folder), step, keep=keep, protect=protect)
    return final


def sizes_of(arrays: Mapping[str, mx.array]) -> list[int]:
    """Bytes of the files of a checkpoint with these arrays, about.

    Args:
        arrays: Named as for ``save``; they need not be evaluated.
    """
    header = bytes_of(arrays) - sum(array.nbytes for array in arrays.values())
    return [header, *(bytes_of(members) for members in grouped(arrays).values())]


def _write(final: Path, header: dict[str, Any], groups: Mapping[str, Arrays]) -> None:
    folder = final.parent
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    aside = folder / f"{TEMPORARY_PREFIX}{final.name}-{os.getpid()}"
    aside.mkdir()
    try:
        for name, members in groups.items():
            file = f"{name}.safetensors"
            header["files"][file] = write_arrays(aside / file, members)
        write_header(aside / HEADER, header)
        flush(aside)
        publish(aside, final)
    finally:
        shutil.rmtree(aside, ignore_errors=True)  # still there only after an error


def prune(folder: Path, step: int, *, keep: int, protect: Collection[int] = ()) -> None:
    """Remove checkpoints that are older than those that stay.

    Later ones are left alone: they are damaged ones that a resume stepped over. What a
    checkpoint that stays names as the best so far stays with it: whoever must fall back
    on that one can still load the best.

    Args:
        folder: Folder of all checkpoints.
        step: One that is known to be whole, such as the one just written.
        keep: How many up to it stay; 0 = all.
        protect: Steps that stay too.
    """
    final = folder_of(folder, step)
    if twin_of(final).exists():  # of a save that was killed at its end
        if not final.exists() or _first_whole([final], None, []):
            settle(final)
    if keep == 0:
        return
    earlier = [path for path in candidates(folder) if step_of(path) <= step]
    staying = {*protect, *map(_best_of, earlier[:keep])}
    for path in earlier[keep:]:
        if step_of(path) not in staying:
            remove(path)


def load(
    path: Path, groups: Collection[str] | None = None
) -> tuple[Arrays, dict[str, Any]]:
    """Read one checkpoint, its digests verified.

    The returned arrays are evaluated: later changes to the files cannot reach them.

    Args:
        path: A checkpoint folder.
        groups: Read only the arrays of these groups, for example ``("model",)``; by
            default all.

    Returns:
        The named arrays, and the meta data with the key ``"step"`` added.

    Raises:
        InputError: The folder is missing, damaged or of another format version; the
            message names the file and the reason.
    """
    path = Path(path)
    header = read_header(path)
    wanted = {f"{name}.safetensors" for name in groups} if groups is not None else None
    if wanted is not None and not wanted <= header["files"].keys():
        missing = ", ".join(sorted(wanted - header["files"].keys()))
        raise InputError(f"[checkpoint] {path}: must hold {missing}, got none.")
    arrays: Arrays = {}
    for file, entry in header["files"].items():
        if wanted is None or file in wanted:
            arrays |= read_arrays(path / file, entry)
    return arrays, {**header["meta"], "step": header["step"]}


def latest(folder: Path) -> Path | None:
    """Find the newest whole checkpoint; see ``load_latest``."""
    found = load_latest(folder)
    return found.path if found is not None else None


@dataclass(frozen=True)
class Loaded:
    """A checkpoint that was read."""

    path: Path
    arrays: Arrays
    meta: dict[str, Any]

    def arrays_of(self, group: str) -> Arrays:
        """Arrays of one group, named without it."""
        start = f"{group}."
        return {
            name.removeprefix(start): array
            for name, array in self.arrays.items()
            if name.startswith(start)
        }


def load_latest(folder: Path, groups: Collection[str] | None = None) -> Loaded | None:
    """Load the newest whole checkpoint, reading it once.

    Damaged checkpoints are skipped with one warning, which names the file, the reason
    and the checkpoint that is taken instead.

    Returns:
        The checkpoint, or None when the folder holds none.

    Raises:
        VersionError: The newest one is whole but of another format version. Skipping
            it would let a run start over on top of it.
        InputError: There are checkpoints, and all are damaged.
    """
    return _search(Path(folder), groups, lambda _: [])


def load_best(folder: Path, groups: Collection[str] | None = None) -> Loaded | None:
    """Load the checkpoint that the newest whole one names as the best so far.

    Its meta data say so under ``best_step``; without that, or before anything was
    measured (``best_value`` is null), the newest is the best. It also serves where the
    best one is damaged or gone, with one warning as in ``load_latest``.

    Returns:
        The checkpoint, or None when the folder holds none.

    Raises:
        VersionError: See ``load_latest``.
        InputError: There are checkpoints, and all are damaged or lack ``groups``.
    """
    return _search(Path(folder), groups, partial(_paths_of_best, Path(folder)))


def _search(
    folder: Path,
    groups: Collection[str] | None,
    rather: Callable[[Loaded], list[Path]],
) -> Loaded | None:
    """The newest whole checkpoint, or the first whole one that it is to give way to."""
    while True:
        listed = candidates(folder)
        damaged: list[InputError] = []
        newest = _first_whole(listed, groups, damaged)
        better = newest and _first_whole(rather(newest), groups, damaged)
        if not damaged or candidates(folder) == listed:
            break  # else a writer pruned what was read, so newer ones came
    found = better or newest
    if not damaged:
        return found
    reason = str(damaged[0]).removesuffix(".")
    others = f" and {len(damaged) - 1} more damaged" if len(damaged) > 1 else ""
    if found is None:
        raise InputError(
            f"[checkpoint] {folder} must hold a whole checkpoint, got: {reason}"
            f"{others}."
        )
    logger.warning("%s%s; %s is used instead", reason, others, found.path)
    return found


def _first_whole(
    paths: Iterable[Path], groups: Collection[str] | None, damaged: list[InputError]
) -> Loaded | None:
    """The first checkpoint that can be read; why others cannot goes to ``damaged``."""
    for path in paths:
        try:
            return Loaded(path, *load(path, groups))
        except VersionError:
            raise
        except InputError as error:
            damaged.append(error)
    return None


def _paths_of_best(folder: Path, newest: Loaded) -> list[Path]:
    """Where the best checkpoint may lie that another one names; none = in itself."""
    step, best = newest.meta["step"], _named_best(newest.meta)
    if best is None or best == step:
        return []
    replaced = [path for path in candidates(folder) if step_of(path) == best]
    return replaced or [folder_of(folder, best)]


def _named_best(meta: Mapping[str, Any]) -> int | None:
    """Step of the best checkpoint by a checkpoint's meta data, if it knows one."""
    best = meta.get("best_step")
    return None if meta.get("best_value", best) is None else best


def _best_of(path: Path) -> int | None:
    """Step of the best checkpoint that a checkpoint names; none where it is damaged."""
    try:
        return _named_best(read_header(path)["meta"])
    except InputError:
        return None


def newest_meta(folder: Path) -> dict[str, Any]:
    """Meta data of the newest checkpoint whose header is whole; its arrays stay unread.

    Empty where there is none.
    """
    for path in candidates(Path(folder)):
        with suppress(InputError):
            meta: dict[str, Any] = read_header(path)["meta"]
            return meta
    return {}


def steps(folder: Path) -> list[int]:
    """List the steps with a checkpoint, ascending, whole or not."""
    return sorted({step_of(path) for path in candidates(Path(folder))})


def require_match(
    expected: Mapping[str, mx.array], arrays: Mapping[str, mx.array], where: str
) -> None:
    """Check that loaded arrays fit what is to be overwritten, name by name.

    Raises:
        InputError: A name is missing or unknown, or a shape or dtype differs.
    """
    missing = sorted(expected.keys() - arrays.keys())
    unknown = sorted(arrays.keys() - expected.keys())
    if missing or unknown:
        raise InputError(
            f"[checkpoint] {where}: must hold exactly the arrays of this "
            f"configuration, got missing {_short(missing)}, unknown {_short(unknown)}."
        )
    for name, array in expected.items():
        want, got = describe(array), describe(arrays[name])
        if want != got:
            raise InputError(
                f"[checkpoint] {where}: '{name}' must be {want['dtype']} "
                f"{want['shape']}, got {got['dtype']} {got['shape']}."
            )


def _short(names: Iterable[str]) -> str:
    names = list(names)
    shown = ", ".join(names[:4]) or "none"
    return shown + (f" and {len(names) - 4} more" if len(names) > 4 else "")
