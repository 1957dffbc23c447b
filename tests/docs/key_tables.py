"""Tables of every command's keys, in docs/commands.md.

``python -m tests.docs.key_tables`` puts them there from the dataclasses.
"""

import re

from energyflow_mlx.config.command_line import usage
from energyflow_mlx.decode import DecodeArgs
from energyflow_mlx.doctor import DoctorArgs
from energyflow_mlx.encode import EncodeArgs
from energyflow_mlx.evaluate import EvaluateArgs
from energyflow_mlx.export import ExportArgs
from energyflow_mlx.plot import PlotArgs
from energyflow_mlx.prepare import PrepareArgs
from energyflow_mlx.profile import ProfileArgs
from energyflow_mlx.sweep_report import SweepReportArgs
from tests.docs.pages import CHECKOUT

PAGE = "docs/commands.md"
SCHEMAS = {
    "evaluate": EvaluateArgs,
    "encode": EncodeArgs,
    "decode": DecodeArgs,
    "plot": PlotArgs,
    "prepare": PrepareArgs,
    "export": ExportArgs,
    "doctor": DoctorArgs,
    "profile": ProfileArgs,
    "sweep_report": SweepReportArgs,
}
_KEY = re.compile(r"^  (\S+) +(.*) \((required|default .*)\)$", re.M)


def section_of(name):
    """What the command does, and its keys; the start of its section."""
    text = usage(SCHEMAS[name], "")
    rows = [
        f"| `{key}` | {default.removeprefix('default ')} | {meaning} |\n"
        for key, meaning, default in _KEY.findall(text)
    ]
    does = text.split("\n\n")[1]
    return f"{does}\n\n| key | default | meaning |\n|---|---|---|\n{''.join(rows)}"


def main():
    """Put the tables into the page, under the headings that are there."""
    path = CHECKOUT / PAGE
    page = path.read_text(encoding="utf-8")
    for name in SCHEMAS:
        heading = f"## {name.replace('_', '-')}\n\n"
        before, _, after = page.partition(heading)
        # What is there: a line, then the table, then words that stay.
        rest = re.sub(r"\A[^|]*(?:\|[^\n]*\n)*", "", after, count=1)
        page = before + heading + section_of(name) + rest
    path.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
