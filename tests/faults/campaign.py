"""Campaigns of faults: ``python -m tests.faults.campaign kills --count 300 --seed 1``.

``operations`` kills before every file operation, ``kills`` at random instants, ``full``
and ``broken`` fill the disk or let it fail at every operation. Every case is a line of
the JSON file that ``--output`` names; what is to be mended is listed at the end.
"""

import argparse
import itertools
import json
import math
import multiprocessing
import os
import random
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.faults.harness import Processes, reason_not_to_run
from tests.faults.kills import Bench, Strike
from tests.faults.kinds import KINDS, RUNS


def strikes_of(what, bench, kinds, count, seed):
    """The strikes of a campaign; equal for equal seeds, instants apart."""
    if what == "kills":
        return random_instants(bench, kinds, count, seed)
    mode = "kill" if what == "operations" else what
    points = [strike for kind in kinds for strike in bench.points(kind, mode)]
    if count and count < len(points):
        points = random.Random(seed).sample(points, count)
    return points


def random_instants(bench, kinds, count, seed):
    """Instants of undisturbed runs, from the start of the process to its end."""
    chosen, strikes = random.Random(seed), []
    for kind, _ in zip(itertools.cycle(kinds), range(count), strict=False):
        longest = bench.undisturbed(kind).seconds
        strikes.append(Strike(kind, "instant", chosen.uniform(0, longest)))
    return strikes


def main():
    options = arguments()
    reason = reason_not_to_run()
    if reason:
        sys.exit(reason)
    work = Path(tempfile.mkdtemp(prefix="energyflow_faults_"))
    try:
        outcomes = campaign(options, work)
    finally:
        shutil.rmtree(work)
    failed = [outcome for outcome in outcomes if outcome.problems]
    print(listed(failed))
    print(f"{options.what}: seed {options.seed}, {len(outcomes)} cases, "
          f"{len(failed)} not as promised")
    sys.exit(1 if failed else 0)


def campaign(options, work):
    """Run it in some processes side by side; returns the outcomes in order."""
    shares = [options.kinds[i :: options.jobs] for i in range(options.jobs)]
    shares = [kinds for kinds in shares if kinds]
    count = math.ceil(options.count / len(shares))
    parts = [
        (options.what, kinds, count, options.seed + number, work / str(number))
        for number, kinds in enumerate(shares)
    ]
    started = time.time()
    with multiprocessing.get_context("spawn").Pool(len(shares)) as pool:
        outcomes = sum(pool.starmap(part_of_campaign, parts), [])
    if options.output:
        record = {"what": options.what, "seed": options.seed, "kinds": options.kinds}
        record |= {"cases": [outcome.to_json() for outcome in outcomes]}
        record |= {"seconds": round(time.time() - started)}
        options.output.write_text(json.dumps(record, indent=1) + "\n")
    return outcomes


def part_of_campaign(what, kinds, count, seed, work):
    """Outcomes of some kinds, in a process of their own."""
    with Processes(work / "output") as processes:
        bench = Bench(processes, work / "cases", work.parent / "cache")
        strikes = strikes_of(what, bench, kinds, count, seed)
        return [said(bench.judge(strike)) for strike in strikes]


def said(outcome):
    """Show a case as soon as it is known."""
    mark = "; ".join(outcome.problems) or "ok"
    line = f"{outcome.strike} ({outcome.struck}): {mark}"
    print(line, file=sys.stderr, flush=True)
    return outcome


def listed(failed):
    """Problems as a list, each with the operations after which it was seen."""
    places = {}
    for outcome in failed:
        for problem in outcome.problems:
            places.setdefault(re.sub(r"-\d+", "-N", problem), []).append(outcome)
    lines = []
    for problem, outcomes in sorted(places.items(), key=lambda pair: -len(pair[1])):
        lines.append(f"{len(outcomes)} x {problem}")
        lines += sorted({f"    {o.strike} ({o.struck})" for o in outcomes})[:12]
    return "\n".join(lines)


def arguments():
    parser = argparse.ArgumentParser(prog="python -m tests.faults.campaign")
    parser.add_argument("what", choices=["operations", "kills", "tear", "full", "broken"])
    parser.add_argument("--kinds", nargs="+", default=[*RUNS], choices=[*KINDS])
    parser.add_argument("--count", type=int, default=0, help="cases; 0 is all points")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--output", type=Path, help="JSON file of every case")
    options = parser.parse_args()
    if options.what == "kills" and not options.count:
        options.count = 300
    return options


if __name__ == "__main__":
    main()
