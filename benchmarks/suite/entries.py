"""What the suite runs: every benchmark in a short form, each with a limit in seconds.

A script that runs past its limit, and past what earlier ones left of theirs, is ended
and counts as failed, so the sum of the limits bounds the whole suite.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
MOST_SECONDS = 600  # all limits together


@dataclass(frozen=True)
class Entry:
    """A benchmark in its short form.

    Attributes:
        script: Its path under ``benchmarks/``.
        words: Options of the short form.
        limit_s: Seconds after which it is ended.
    """

    script: str
    words: tuple[str, ...]
    limit_s: int

    def with_patience(self, factor: int) -> Entry:
        """The same with so many times the limit."""
        return replace(self, limit_s=factor * self.limit_s)

    @property
    def name(self) -> str:
        """What the table calls it: the script without ``bench_``."""
        return Path(self.script).stem.removeprefix("bench_")

    @property
    def command(self) -> str:
        """The line that runs it alone, in the checkout."""
        return " ".join(["python", f"benchmarks/{self.script}", *self.words])


ENTRIES = (
    Entry("bench_blas.py", (), 6),
    Entry("bench_step.py", ("--quick", "--rounds", "5", "--steps", "3"), 50),
    Entry("bench_training.py", ("--seconds", "2"), 30),
    Entry("bench_throughput.py", ("--quick", "--rounds", "5"), 45),
    Entry("bench_quality.py", (), 35),
    Entry("bench_precision.py", ("--updates", "8", "--only", "ab"), 7),
    Entry("bench_profile.py", ("--updates", "8"), 30),
    Entry("bench_readback.py", ("--steps", "12"), 30),
    Entry("bench_overlap.py", ("--rounds", "3"), 25),
    Entry(
        "bench_parallel.py", ("--rounds", "2", "--steps", "1", "--largest", "65536"), 60
    ),
    Entry("bench_encode.py", ("--sentences", "400", "--rounds", "5"), 20),
    Entry("bench_teacher.py", ("--rounds", "3"), 5),
    Entry("bench_generate.py", ("--quick",), 10),
    Entry("bench_data.py", ("--quick",), 10),
    Entry("bench_attention.py", ("--rounds", "7"), 10),
    Entry("bench_gru.py", ("--quick", "--rounds", "5"), 12),
    Entry("bench_lattice.py", ("--no-growth", "--no-baselines"), 30),
    Entry("ops/bench_lattice_scatter.py", ("--rounds", "7"), 10),
    Entry("ops/bench_lattice_readout.py", ("--rounds", "5"), 15),
    Entry("ops/bench_field_write.py", ("--quick", "--rounds", "5"), 8),
    Entry("ops/bench_field_read.py", ("--quick", "--rounds", "5"), 8),
    Entry("ops/bench_flow_carry.py", ("--quick", "--rounds", "5"), 12),
    Entry("ops/bench_gru_blend.py", ("--rounds", "7"), 10),
    Entry("ops/bench_layer_norm.py", ("--rounds", "9"), 10),
    Entry("ops/bench_gelu.py", ("--rounds", "7"), 12),
    Entry("ops/bench_masked_mean.py", ("--rounds", "7"), 10),
    Entry("ops/bench_embedding.py", ("--rounds", "5"), 12),
    Entry("ops/bench_covered_tokens.py", ("--rounds", "5"), 12),
    Entry("ops/bench_causal_im2col.py", ("--quick", "--only", "columns"), 15),
    Entry("ops/bench_linear_cross_entropy.py", ("--quick", "--rounds", "7"), 12),
    Entry("ops/bench_tcn_block.py", ("--rounds", "3"), 25),
    Entry("ops/bench_adamw.py", ("--rounds", "3"), 14),
)


def chosen(names: list[str]) -> list[Entry]:
    """Entries by name, in the suite's order; all when none is named.

    Raises:
        KeyError: A name is not in the suite.
    """
    known = {entry.name: entry for entry in ENTRIES}
    wanted = {known[name].name for name in names} or set(known)
    return [entry for entry in ENTRIES if entry.name in wanted]
