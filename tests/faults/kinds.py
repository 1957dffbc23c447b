"""Six kinds of run, each over in a second, and what of them must not change.

A run that was struck and started again must end as the undisturbed one: its weights and
moments bit for bit, its records but for times, its other files.
"""

import functools
import hashlib
import json
import re
from pathlib import Path

from energyflow_mlx.runs.metrics import read_metrics

RUN = "run"  # the run's folder, in the folder of a case

_SMALL = (
    *("encoder.dim=16", "encoder.hidden=24", "data.captions=100", "data.buckets=[16]"),
    *("data.max_length=16", "trainer.micro_batch=8", "trainer.max_steps=5"),
    *("trainer.save_every=2", "trainer.validate_every=4", "trainer.log_every=2"),
    *("trainer.keep=1", "trainer.decode_samples=0", "trainer.follow_samples=1"),
)
_DECODER = ("decoder.dim=16", "decoder.hidden=24")
_LATTICE = (
    *("lattice.cube.width=8", "lattice.cube.height=8", "lattice.cube.depth=4"),
    *("lattice.spawn.slots=2", "lattice.carrier.hidden=8"),
    *("lattice.carrier.neuron_hidden=6", "lattice.carrier.neuron_features=7"),
)
KINDS = {
    "ab": ("+experiment=ab", *_SMALL, *_DECODER),
    "accumulate": ("+experiment=ab", *_SMALL, *_DECODER, "trainer.accumulate=4"),
    "distill": ("+experiment=distill", *_SMALL),
    "flow": ("+experiment=flow", *_SMALL, *_LATTICE),
    "flow_text": ("+experiment=flow_text", *_SMALL, *_DECODER, *_LATTICE),
    "transformer": (
        *("+experiment=ab", "encoder=transformer", "encoder.heads=2", "share=none"),
        *(*_SMALL, *_DECODER),
    ),
}
SAVE_EVERY = 2


def command(kind, cache):
    """Words that train a kind of run, the teacher's vectors in a cache they share."""
    return ("train", f"run.dir={RUN}", f"teacher.cache_dir={cache}", *KINDS[kind])


# Of this process alone: times, memory, how often it built a graph.
_TIMES = re.compile(r"seconds|samples_per_second|.*_ms|peak_bytes|traces")


def state_of(folder):
    """Everything of a run that a fault must not change, by name.

    Args:
        folder: The run's folder, of a run that has ended.
    """
    folder = Path(folder)
    state = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and path.name not in _JSON:
            state[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.is_file():
            state[name] = _without_times(json.loads(path.read_bytes()))
    log = folder / "metrics.jsonl"
    state["metrics.jsonl"] = [_without_times(r) for r in read_metrics(log)]
    return state


_JSON = {"checkpoint.json", "summary.json"}


def _without_times(record):
    dropped = {"sha256", "started", "digest"}
    return {
        key: _without_times(value) if isinstance(value, dict) else value
        for key, value in record.items()
        if not _TIMES.fullmatch(key) and (key not in dropped or key == "files")
    }


def differences(expected, found):
    """What differs between two states, one line each."""
    lines = [f"left over: {name}" for name in sorted(found.keys() - expected.keys())]
    lines += [f"missing: {name}" for name in sorted(expected.keys() - found.keys())]
    for name in sorted(expected.keys() & found.keys()):
        if expected[name] != found[name]:
            lines.append(f"differs: {name}{_difference(expected[name], found[name])}")
    return lines


@functools.singledispatch
def _difference(_expected, _found):
    return ""


@_difference.register
def _(expected: list, found):
    steps = [[(r.get("kind"), r.get("step")) for r in rs] for rs in (expected, found)]
    if steps[0] != steps[1]:
        return f": records {steps[1]}, not {steps[0]}"
    pairs = zip(expected, found, strict=True)
    wrong = [(a, b) for a, b in pairs if a != b]
    return "; ".join(
        f": {a['kind']} of update {a['step']}{_difference(a, b)}" for a, b in wrong
    )


@_difference.register
def _(expected: dict, found):
    keys = sorted(expected.keys() | found.keys())
    changed = [k for k in keys if expected.get(k) != found.get(k)]
    return f": {', '.join(map(str, changed))}"


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
    is_over = "nothing to do" in after
    if resumed < saved and not is_over:
        return f"update {saved} was saved, and it went on from update {resumed}"
    return ""
