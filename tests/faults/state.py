"""What a fault must not change: everything below a folder but times and memory.

Weights and moments bit for bit, records and JSON field for field, the rest by digest.
"""

import hashlib
import json
import re
from pathlib import Path

from energyflow_mlx.errors import InputError
from energyflow_mlx.runs.metrics import read_metrics
from energyflow_mlx.runtime.atomic import TEMPORARY_PREFIX

# Of one process alone: times, memory, how often it built a graph.
_OF_PROCESS = re.compile(
    r"seconds|.*_seconds|samples_per_second|.*_ms|peak_bytes|traces"
)
_DIGESTS = ("sha256", "digest", "log")  # of what holds times
_WITH_TIMES = ("checkpoint.json", "summary.json", "evaluation.json")
LOCK = "lock"  # names the process that held it last


def state_of(folder):
    """Everything below a folder that a fault must not change, by name."""
    folder = Path(folder)
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != LOCK]
    state = {str(p.relative_to(folder)): _state_of_file(p) for p in files}
    empty = [p for p in folder.rglob("*") if p.is_dir() and not any(p.iterdir())]
    return state | {f"{p.relative_to(folder)}/": "empty" for p in empty}


def _state_of_file(path):
    if path.name == "metrics.jsonl":
        return _records_of(path)
    data = path.read_bytes()
    values = _json_of(data) if path.name in _WITH_TIMES else None
    if values is not None:
        meta = _without_digests(values.get("meta", {}))
        return _lasting(_without_digests(values) | {"meta": meta})
    return hashlib.sha256(data).hexdigest()


def _records_of(path):
    """The records of a log; what is wrong with a damaged one."""
    try:
        return [_lasting(record) for record in read_metrics(path)]
    except InputError as error:
        return str(error)


def _json_of(data):
    """The object in a file; none in a damaged one."""
    try:
        return json.loads(data)
    except ValueError:
        return None


def _without_digests(values):
    return {key: value for key, value in values.items() if key not in _DIGESTS}


def _lasting(values):
    return {
        key: _lasting(value) if isinstance(value, dict) else value
        for key, value in values.items()
        if not _OF_PROCESS.fullmatch(key)
    }


def temporaries(folder):
    """Names of temporary files and folders that a process left behind."""
    return sorted(
        str(path.relative_to(folder))
        for path in Path(folder).rglob(f"{TEMPORARY_PREFIX}*")
        if not path.parent.name.startswith(TEMPORARY_PREFIX)
    )


def differences(expected, found):
    """What differs between two states, one line each."""
    lines = [f"left over: {name}" for name in sorted(found.keys() - expected.keys())]
    lines += [f"missing: {name}" for name in sorted(expected.keys() - found.keys())]
    for name in sorted(expected.keys() & found.keys()):
        if expected[name] != found[name]:
            lines.append(f"differs: {name}{_difference(expected[name], found[name])}")
    return lines


def _difference(expected, found):
    """Which records or fields differ, of two files of one kind."""
    if isinstance(expected, dict) and isinstance(found, dict):
        keys = sorted(expected.keys() | found.keys())
        changed = [k for k in keys if expected.get(k) != found.get(k)]
        return f": {', '.join(changed)}"
    if not (isinstance(expected, list) and isinstance(found, list)):
        return ""
    steps = [[(r.get("kind"), r.get("step")) for r in rs] for rs in (expected, found)]
    if steps[0] != steps[1]:
        return f": has records {steps[1]}, not {steps[0]}"
    wrong = [(a, b) for a, b in zip(expected, found, strict=True) if a != b]
    return "".join(f"; {a['kind']} {a['step']}{_difference(a, b)}" for a, b in wrong)


_SAVED = re.compile(r"^saved update (\d+)", re.MULTILINE)
_RESUMED = re.compile(r"^resumed .* at update (\d+)", re.MULTILINE)


def lost_updates(before, after):
    """What a kill cost beyond what had been saved, as a text; empty where nothing.

    Args:
        before: Output of the process that was killed.
        after: Output of the one that went on.
    """
    saved = max(map(int, _SAVED.findall(before)), default=0)
    resumed = max(map(int, _RESUMED.findall(after)), default=0)
    if resumed >= saved or "nothing to do" in after:
        return ""
    return f"update {saved} was saved, and it went on from update {resumed}"
