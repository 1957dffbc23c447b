"""A command in this process: starting one for each of hundreds takes a second each."""

import contextlib
import io
import sys
import traceback

import energyflow_mlx.__main__ as command


def call(words, stdout=None):
    """Status and what was said, as a user would see it."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    if stdout is not None:
        out = open(stdout, "w")  # noqa: SIM115 - never closed well: the disk is full
    sys.argv = ["energyflow", *words]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            command.main()
        except SystemExit as end:
            status = end.code or 0
        except BaseException:  # what a user would see of it, and go on
            status = 1
            traceback.print_exc()
    return status, "" if stdout else out.getvalue(), err.getvalue()
