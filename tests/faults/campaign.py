"""Campaigns of faults: ``python -m tests.faults.campaign kills --count 300 --seed 1``.

``operations`` kills before every file operation, ``tear`` inside one, ``kills`` at
random instants; ``full`` and ``broken`` fill the disk, or let it fail, at every
operation; ``damage`` flips bits and cuts files, ``resume`` goes on from such folders;
``writers`` starts the same run twice. On a GPU: ``kills --fresh``. Every case is
written to the JSON file of ``--output``; what is not as promised is listed at the end,
and the status is 1.
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

from tests.faults import damaged
from tests.faults.harness import FreshProcesses, Processes, reason_not_to_run
from tests.faults.kills import Bench, Strike
from tests.faults.kinds import KINDS, RUNS
from tests.faults.writers import meet

_MODES = {"operations": "kill", "tear": "tear", "full": "full", "broken": "broken"}


def outcomes_of(what, kinds, count, seed, work, kind_of_processes):
    """Outcomes of one part of a campaign, one after the other.

    Args:
        what: Kind of campaign.
        kinds: Of commands.
        count: Cases; 0 for every operation.
        seed: Equal seeds give equal cases, what happens at an instant apart.
        work: Folder for everything.
        kind_of_processes: How commands are started.
    """
    cache = work.parent / "cache"
    with kind_of_processes(work / "output") as processes:
        bench = Bench(processes, work / "cases", cache)
        if what in ("damage", "resume"):
            is_half_way = what == "resume" or seed % 2 == 0
            run = damaged.make_run(
                processes, work / "whole", cache, is_half_way=is_half_way
            )
            if what == "damage":
                yield from damaged.judged(run, seed, 0, count)
            else:
                yield from damaged.resumed(processes, run, cache, seed, range(count))
        elif what == "writers":
            with Processes(work / "second") as other:
                for strike in instants(bench, kinds, count, seed):
                    yield meet(bench, other, strike.kind, strike.at)
        else:
            strikes = instants if what == "kills" else points
            mode = _MODES.get(what)
            for strike in strikes(bench, kinds, count, seed, mode):
                yield bench.judge(strike)


def points(bench, kinds, count, seed, mode):
    """File operations of undisturbed commands: all of them, or so many."""
    found = [strike for kind in kinds for strike in bench.points(kind, mode)]
    if 0 < count < len(found):
        return random.Random(seed).sample(found, count)
    return found


def instants(bench, kinds, count, seed, _mode=None):
    """Instants of undisturbed commands, from the start of the process to its end."""
    chosen = random.Random(seed)
    for kind, _ in zip(itertools.cycle(kinds), range(count), strict=False):
        longest = bench.undisturbed(kind).seconds
        yield Strike(kind, "instant", chosen.uniform(0, longest))


def part_of_campaign(*part):
    """Outcomes of one part, in a process of its own; each is said as it comes."""
    return [said(outcome) for outcome in outcomes_of(*part)]


def said(outcome):
    """Show a case as soon as it is known."""
    line = f"{outcome}: {'; '.join(outcome.problems) or 'ok'}"
    sys.stderr.write(f"{line}\n")
    return outcome


def listed(failed):
    """Problems as a list, each with some of the cases that showed it."""
    places = {}
    for outcome in failed:
        for problem in outcome.problems:
            places.setdefault(re.sub(r"\d+", "N", problem), []).append(outcome)
    lines = []
    for problem, outcomes in sorted(places.items(), key=lambda pair: -len(pair[1])):
        lines.append(f"{len(outcomes)} x {problem}")
        lines += sorted({f"    {outcome}" for outcome in outcomes})[:12]
    return "\n".join(lines)


def campaign(options, work):
    """Run it in some processes side by side; returns the outcomes."""
    jobs, started_by = options.jobs, FreshProcesses if options.fresh else Processes
    shares = [options.kinds[i::jobs] for i in range(jobs)]
    if options.what in ("damage", "resume", "kills", "writers"):
        shares = [options.kinds] * jobs
    shares = [kinds for kinds in shares if kinds]
    count = math.ceil(options.count / len(shares))
    parts = [
        (
            options.what,
            kinds,
            count,
            options.seed + number,
            work / str(number),
            started_by,
        )
        for number, kinds in enumerate(shares)
    ]
    with multiprocessing.get_context("spawn").Pool(len(shares)) as pool:
        return sum(pool.starmap(part_of_campaign, parts, chunksize=1), [])


def main():
    options = arguments()
    if not options.fresh and (reason := reason_not_to_run()):
        sys.exit(reason)
    work, started = Path(tempfile.mkdtemp(prefix="energyflow_faults_")), time.time()
    try:
        outcomes = campaign(options, work)
    finally:
        shutil.rmtree(work)
    failed = [outcome for outcome in outcomes if outcome.problems]
    record = {"what": options.what, "kinds": options.kinds, "seed": options.seed}
    record |= {"failed": len(failed), "seconds": round(time.time() - started)}
    record |= {"cases": [outcome.to_json() for outcome in outcomes]}
    if options.output:
        options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    cases = f"{len(outcomes)} cases, {len(failed)} not as promised"
    report = f"{listed(failed)}\n{options.what}, seed {options.seed}: {cases}\n"
    sys.stdout.write(report)
    sys.exit(1 if failed else 0)


def arguments():
    """What was typed."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.campaign")
    also = ("kills", "damage", "resume", "writers")
    parser.add_argument("what", choices=[*_MODES, *also])
    parser.add_argument("--kinds", nargs="+", default=[*RUNS], choices=[*KINDS])
    parser.add_argument("--count", type=int, default=0, help="cases; 0 = all points")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--output", type=Path, help="JSON file of every case")
    on_gpu = "start every process on its own, as a GPU needs it; kills only"
    parser.add_argument("--fresh", action="store_true", help=on_gpu)
    options = parser.parse_args()
    if options.what in also and not options.count:
        parser.error(f"{options.what} needs --count")
    if options.fresh and options.what != "kills":
        parser.error("--fresh is for kills")
    return options


if __name__ == "__main__":
    main()
