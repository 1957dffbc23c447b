"""What each tracker kept, read with its own tools: ``(name, step) -> values``."""

import csv
import json
import struct
import time
from collections import defaultdict

from energyflow_mlx.runs.trackers import scalars

_BLOCK, _HEADER = 32768, 7
_FIRST, _LAST = (1, 2), (1, 4)  # kinds of fragments, with the whole record as 1


def points(records):
    """What trackers should hold of the records of ``metrics.jsonl``."""
    found = defaultdict(list)
    for record in records:
        for name, value in scalars(record).items():
            found[name, record.get("step", 0)].append(value)
    return dict(found)


def number(text):
    return float({"True": "1", "False": "0"}.get(text, text))


def read_csv(folder):
    with (folder / "metrics.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    found = defaultdict(list)
    for row in rows:
        kind, step = row.pop("kind"), int(row.pop("step"))
        for name, text in row.items():
            if text and name != "note":
                found[f"{kind}/{name}", step].append(number(text))
    return dict(found)


def read_tensorboard(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), {"scalars": 0})
    events.Reload()
    found = defaultdict(list)
    for name in events.Tags()["scalars"]:
        for event in events.Scalars(name):
            found[name, event.step].append(event.value)
    return dict(found)


def read_wandb(folder):
    found = defaultdict(list)
    for record in whole_wandb_file(folder):
        if record.WhichOneof("record_type") != "history":
            continue
        items = {
            (item.key or ".".join(item.nested_key)): json.loads(item.value_json)
            for item in record.history.item
        }
        step = items.pop("update")
        for name, value in items.items():
            if not name.startswith("_"):
                found[name, step].append(float(value))
    return dict(found)


def whole_wandb_file(folder):
    """Records of the one offline file; wandb's own process may still write its end."""
    (path,) = (folder / "wandb").glob("offline-run-*/*.wandb")
    deadline = time.monotonic() + 30
    while True:
        records = list(wandb_records(path.read_bytes()))
        if any(record.HasField("exit") for record in records):
            return records
        assert time.monotonic() < deadline, f"{path} has no end"
        time.sleep(0.05)


def wandb_records(data):
    """Records of an offline file: a log of fragments in blocks, protobuf inside."""
    from wandb.proto.wandb_internal_pb2 import Record

    assert data[:4] == b":W&B"
    place, parts = 7, []
    while place + _HEADER <= len(data):
        if _BLOCK - place % _BLOCK < _HEADER:
            place += _BLOCK - place % _BLOCK
            continue
        _, size, kind = struct.unpack_from("<IHB", data, place)
        parts.append(data[place + _HEADER : place + _HEADER + size])
        place += _HEADER + size
        if kind in _LAST:
            yield Record.FromString(b"".join(parts))
            parts = []


def read_mlflow(_folder):
    from mlflow import MlflowClient

    client, found = MlflowClient(), defaultdict(list)
    newest = mlflow_runs(client)[0]
    for name in newest.data.metrics:
        for point in client.get_metric_history(newest.info.run_id, name):
            found[name, point.step].append(point.value)
    return dict(found)


def mlflow_runs(client):
    experiments = [e.experiment_id for e in client.search_experiments()]
    return list(client.search_runs(experiments))


READERS = {
    "csv": read_csv,
    "tensorboard": read_tensorboard,
    "wandb": read_wandb,
    "mlflow": read_mlflow,
}
