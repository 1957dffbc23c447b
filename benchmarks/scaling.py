"""What would 8 and 64 devices train, by what was measured on few?

    python benchmarks/scaling.py FILE [devices=8,64] [link=NAME:GB_S:US ...]

FILE is a result of ``bench_parallel.py``: the time of one process's update, the bytes
of gradients that an update sums, and the time of ``all_sum`` by size. From them

    T(n) = t + 2 (n - 1) h + 2 (n - 1) / n * S / W        seconds of an update
    n * B / T(n)                                          sentences a second
    2 (n - 1) / n * S                                     bytes each device sends

with t the update alone, B its sentences, S the bytes, and the link's bandwidth W and
time of a hop h, fitted to the measured sums (a ring all-reduce is 2 (n - 1) hops that
each carry S / n; Patarasu and Yuan, "Bandwidth optimal all-reduce algorithms", 2009).
``link=`` adds links that were not measured, from their data sheets or a test of yours.

Nothing is overlapped: the sum begins when the gradients are there. The batch grows with
the devices. The model cannot see stragglers, other traffic on a switch, or a host that
feeds several devices; it is a bound to plan by, not a measurement.
"""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

DEVICES = (8, 64)


class Link(NamedTuple):
    """A connection between neighbors of the ring.

    Attributes:
        name: What it is called.
        bandwidth: Bytes a second, one way.
        hop: Seconds before the first byte of a message arrives.
    """

    name: str
    bandwidth: float
    hop: float


def fitted(rows: list[dict[str, float]], processes: int) -> Link:
    """Bandwidth and hop time that explain the measured sums best.

    Least squares on relative errors, so that small messages count as much as large.
    """
    size = np.array([row["bytes"] for row in rows])
    seconds = np.array([row["ms"] for row in rows]) / 1e3
    hops, share = 2 * (processes - 1), 2 * (processes - 1) / processes
    terms = np.stack([np.full(len(size), hops), share * size], axis=1)
    weighted = terms / seconds[:, None]
    hop, per_byte = np.linalg.lstsq(weighted, np.ones(len(size)), rcond=None)[0]
    return Link("as measured", 1 / max(per_byte, 1e-15), max(hop, 0.0))


def parse_link(text: str) -> Link:
    """``NAME:GB_S:US`` as a link."""
    name, bandwidth, hop = text.split(":")
    return Link(name, float(bandwidth) * 1e9, float(hop) / 1e6)


def predict(
    link: Link, devices: int, *, alone: float, batch: int, summed: int
) -> dict[str, Any]:
    """Time, throughput and traffic of one update on so many devices.

    Args:
        link: The slowest link of the ring.
        devices: Number of devices n.
        alone: Seconds of an update of one device.
        batch: Sentences of it.
        summed: Bytes that an update sums.
    """
    sent = 2 * (devices - 1) / devices * summed
    communication = 2 * (devices - 1) * link.hop + sent / link.bandwidth
    whole = alone + communication
    return {
        "link": link.name,
        "devices": devices,
        "update_ms": 1e3 * whole,
        "communication_ms": 1e3 * communication,
        "samples_per_second": devices * batch / whole,
        "efficiency": alone / whole,
        "sent_bytes_per_device": sent,
        "sent_gb_per_second": sent / whole / 1e9,
    }


def main(words: list[str]) -> None:
    """Print the table and, as the last line, the same as JSON."""
    record = json.loads(Path(words[0]).read_text())
    devices, links = list(DEVICES), [fitted(record["all_sum"], record["processes"])]
    for word in words[1:]:
        key, _, value = word.partition("=")
        if key == "devices":
            devices = [int(n) for n in value.split(",")]
        elif key == "link":
            links.append(parse_link(value))
        else:
            sys.exit(f"error: [arguments] devices=... or link=..., got {word!r}.")
    print(f"measured: {record['device']}, {record['dtype']}, batch {record['batch']} a")
    print(f"device, {record['processes']} processes, commit {record['commit']}")
    for link in links:
        print(f"link {link.name}: {link.bandwidth / 1e9:.2f} GB/s one way, ", end="")
        print(f"{link.hop * 1e6:.1f} us a hop")
    results = []
    for work, found in record["work"].items():
        alone, summed = found["alone_step_ms"][1] / 1e3, found["summed_bytes"]
        print(
            f"\n{work}: update {1e3 * alone:.2f} ms alone, sums {summed / 1e6:.1f} MB"
        )
        print(f"{'link':16}{'n':>4}{'ms':>10}{'sum ms':>9}{'samples/s':>13}", end="")
        print(f"{'of n x one':>12}{'MB sent':>9}{'GB/s':>8}")
        for link in links:
            for count in devices:
                row = predict(
                    link, count, alone=alone, batch=record["batch"], summed=summed
                )
                results.append({"work": work, **row})
                print(
                    f"{link.name:16}{count:>4}{row['update_ms']:>10.2f}"
                    f"{row['communication_ms']:>9.2f}"
                    f"{row['samples_per_second']:>13,.0f}{row['efficiency']:>12.2f}"
                    f"{row['sent_bytes_per_device'] / 1e6:>9.1f}"
                    f"{row['sent_gb_per_second']:>8.2f}"
                )
    print(json.dumps({"benchmark": "scaling", "from": words[0], "rows": results}))


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit((__doc__ or "").split("\n\n")[1].strip())
    main(sys.argv[1:])
