"""Checkpoints: one folder per step, safetensors and JSON, digests checked.

A checkpoint is a folder ``step_00000123`` of ``<group>.safetensors`` files, grouped by
the first part of the array names (``model.encoder.bias`` goes to ``model``), and one
``checkpoint.json`` with the format version, step, meta data and, for every file, its
size, sha256, shapes and dtypes. It is written aside, flushed and renamed, so a kill at
any moment leaves the earlier checkpoints whole. Nothing is pickled, and loading
instantiates nothing by name. One process writes to a folder; any number may read.
"""

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from energyflow_mlx.errors import InputError
from energyflow_mlx.runs.weights import (
    Arrays,
    Payload,
    describe,
    read_arrays,
    write_arrays,
)
from energyflow_mlx.runtime.atomic import TEMPORARY_PREFIX, flush
from energyflow_mlx.runtime.received import built, read_json, require_type

logger = logging.getLogger(__name__)

FORMAT = "energyflow-checkpoint"
VERSION = 1
HEADER = "checkpoint.json"

# A step that is saved again is first moved to the name with a tilde, so that a kill
# between the two renames still leaves a complete checkpoint to be found.
_NAME = re.compile(r"step_(\d{8,})(~?)")
_GROUP = re.compile(r"[A-Za-z0-9_-]+")
_FILE = re.compile(r"[A-Za-z0-9_-]+\.safetensors")


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
        OSError: The disk is full or not writable; earlier checkpoints are whole.
    """
    header = _header(step, meta)
    groups = _group(arrays)
    if keep < 0:
        raise ValueError(f"[checkpoint] keep must be at least 0, got {keep}.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder)
    final = folder_of(folder, step)
    aside = folder / f"{TEMPORARY_PREFIX}{final.name}-{os.getpid()}"
    aside.mkdir()
    try:
        for name, members in groups.items():
            file = f"{name}.safetensors"
            header["files"][file] = write_arrays(aside / file, members)
        _write_header(aside / HEADER, header)
        flush(aside)
        _publish(aside, final)
    finally:
        shutil.rmtree(aside, ignore_errors=True)  # still there only after an error
    _prune(folder, step, keep, set(protect))
    return final


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
    header = _read_header(path)
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


class VersionError(InputError):
    """A checkpoint written by a version of this package with another format."""


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

    Damaged checkpoints are skipped with a warning that names the file and the reason.

    Returns:
        The checkpoint, or None when the folder holds no whole one.

    Raises:
        VersionError: The newest one is whole but of another format version. Skipping
            it would let a run start over on top of it.
    """
    was_pruned = True
    while was_pruned:  # a writer pruned what we were reading, so newer ones came
        was_pruned = False
        for path in _candidates(Path(folder)):
            try:
                arrays, meta = load(path, groups)
            except VersionError:
                raise
            except InputError as error:
                if path.exists():
                    logger.warning("skipped a damaged checkpoint: %s", error)
                was_pruned |= not path.exists()
            else:
                return Loaded(path, arrays, meta)
    return None


def load_best(folder: Path, groups: Collection[str] | None = None) -> Loaded | None:
    """Load the checkpoint that the newest whole one names as the best so far.

    Its meta data say so under ``best_step``; without that, or before anything was
    measured (``best_value`` is null), the newest is the best.

    Returns:
        The checkpoint, or None when the folder holds no whole one.

    Raises:
        InputError: The best one is missing or damaged, or lacks one of ``groups``.
    """
    newest = load_latest(folder, groups)
    if newest is None:
        return None
    meta = newest.meta
    best = meta.get("best_step", meta["step"])
    require_type(best, int, f"[checkpoint] {newest.path / HEADER}: best_step")
    if best == meta["step"] or meta.get("best_value", best) is None:
        return newest
    path = folder_of(folder, best)
    return Loaded(path, *load(path, groups))


def folder_of(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return Path(folder) / f"step_{step:08d}"


def steps(folder: Path) -> list[int]:
    """List the steps with a checkpoint, ascending, whole or not."""
    return sorted({_step_of(path) for path in _candidates(Path(folder))})


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


def _header(step: int, meta: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(step, bool) or not isinstance(step, int) or step < 0:
        raise ValueError(f"[checkpoint] step must be an integer >= 0, got {step!r}.")
    if meta.get("step", step) != step:
        raise ValueError(
            f"[checkpoint] meta['step'] must be {step}, got {meta['step']!r}."
        )
    try:
        plain = json.loads(json.dumps(dict(meta), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"[checkpoint] meta must be finite JSON values, got: {error}."
        ) from error
    if plain != meta:  # tuples, integer keys: would come back as something else
        raise ValueError(
            "[checkpoint] meta must survive JSON unchanged (lists, string keys), "
            f"got {meta!r}."
        )
    header = {"format": FORMAT, "version": VERSION, "step": step, "meta": plain}
    return header | {"files": {}}


def _group(arrays: Mapping[str, mx.array]) -> dict[str, Arrays]:
    groups: dict[str, Arrays] = {}
    for name, array in arrays.items():
        group = name.partition(".")[0]
        if not _GROUP.fullmatch(group):
            raise ValueError(
                "[checkpoint] array names must start with a group of letters, digits, "
                f"'_' or '-' before the first dot, got '{name}'."
            )
        if not isinstance(array, mx.array):
            raise TypeError(
                f"[checkpoint] '{name}' must be an mx.array, got "
                f"{type(array).__name__}."
            )
        groups.setdefault(group, {})[name] = array
    if len({group.lower() for group in groups}) != len(groups):
        raise ValueError(
            "[checkpoint] groups must differ by more than letter case, got "
            f"{', '.join(sorted(groups))}."
        )
    return groups


def _read_header(path: Path) -> dict[str, Any]:
    file = path / HEADER
    header = read_json(file, "checkpoint")
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise InputError(f"[checkpoint] {file}: must be of format '{FORMAT}'.")
    if header.get("version") != VERSION:
        raise VersionError(
            f"[checkpoint] {file}: must be of format version {VERSION}, got "
            f"{str(header.get('version'))[:40]}."
        )
    if header.pop("sha256", None) != _header_digest(header):
        raise InputError(
            f"[checkpoint] {file}: must match its own sha256: the file was changed "
            "after it was written."
        )
    _require_form(header, f"[checkpoint] {file}")
    return header


def _require_form(header: dict[str, Any], where: str) -> None:
    """Refuse a header of another form than ``save`` writes, though it is signed."""
    form = {"format": str, "version": int, "step": int, "meta": dict[str, Any]}
    form |= {"files": dict[str, dict[str, Any]]}
    if header.keys() != form.keys():
        got = ", ".join(sorted(header))[:80]
        raise InputError(f"{where}: must have {', '.join(form)}, got {got}.")
    for key, kind in form.items():
        require_type(header[key], kind, f"{where}: {key}")
    if header["step"] < 0:
        raise InputError(f"{where}: step must be at least 0, got {header['step']}.")
    for file, entry in header["files"].items():
        if not _FILE.fullmatch(file):
            raise InputError(f"{where}: no name of a file of arrays: {file[:60]!r}.")
        built(Payload, entry, f"{where}: {file}")


def _write_header(file: Path, header: dict[str, Any]) -> None:
    header["sha256"] = _header_digest(header)
    file.write_text(json.dumps(header, indent=1), encoding="utf-8")
    flush(file)


def _header_digest(header: Mapping[str, Any]) -> str:
    canonical = json.dumps(header, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _publish(aside: Path, final: Path) -> None:
    older = final.with_name(final.name + "~")
    if final.exists():
        if older.exists():
            _remove(older)
        final.rename(older)
    aside.rename(final)
    flush(final.parent)
    if older.exists():
        _remove(older)


def _prune(folder: Path, step: int, keep: int, protect: set[int]) -> None:
    """Later steps are left alone: they are damaged ones that a resume stepped over."""
    if keep == 0:
        return
    earlier = [path for path in _candidates(folder) if _step_of(path) <= step]
    for path in earlier[keep:]:
        if _step_of(path) not in protect:
            _remove(path)


def _remove(path: Path) -> None:
    """Take the name away first, so that no half-deleted checkpoint is ever seen."""
    doomed = path.with_name(f"{TEMPORARY_PREFIX}removed-{path.name}-{os.getpid()}")
    path.rename(doomed)
    shutil.rmtree(doomed)


def _remove_leftovers(folder: Path) -> None:
    for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
        if path.is_dir():
            shutil.rmtree(path)


def _candidates(folder: Path) -> list[Path]:
    """Checkpoint folders, newest first, replaced ones after their replacement."""
    if not folder.is_dir():
        return []
    named = [(_NAME.fullmatch(path.name), path) for path in folder.iterdir()]
    found = [(int(m[1]), m[2] == "", path) for m, path in named if m and path.is_dir()]
    return [path for _, _, path in sorted(found, reverse=True)]


def _step_of(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1])


def _short(names: Iterable[str]) -> str:
    names = list(names)
    shown = ", ".join(names[:4]) or "none"
    return shown + (f" and {len(names) - 4} more" if len(names) > 4 else "")
