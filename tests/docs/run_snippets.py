"""Run documented commands and code one after the other, in one process.

    python tests/docs/run_snippets.py < SNIPPETS.json > OUTCOMES.json

Each entry is ``{"module": NAME, "arguments": [...], "environment": {...}}``, run as
``python -m energyflow_mlx.NAME``, the same with ``"script": PATH`` in place of the
module, or ``{"code": TEXT}``. The answer has an exit status
and the end of the output for each. One process: start-up and the teacher are paid once,
and whatever the commands leave behind in it ends with it.
"""

import contextlib
import io
import json
import os
import runpy
import sys
import traceback
import warnings


def run(snippet):
    """Exit status and the end of the output of one entry."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            status = _run(snippet)
        except SystemExit as stop:
            status = stop.code or 0
        except BaseException:
            traceback.print_exc()
            status = 1
    return {"status": status, "output": output.getvalue()[-2000:]}


def _run(snippet):
    if "code" in snippet:
        exec(compile(snippet["code"], "documentation", "exec"), {"__name__": "shown"})
        return 0
    os.environ.update(snippet["environment"])
    if "script" in snippet:
        sys.argv = [snippet["script"], *snippet["arguments"]]
        runpy.run_path(snippet["script"], run_name="__main__")
        return 0
    name = f"energyflow_mlx.{snippet['module']}"
    sys.argv = [name, *snippet["arguments"]]
    # The sweep's callback imports one of the entry points.
    warnings.filterwarnings("ignore", ".*found in sys.modules", RuntimeWarning)
    runpy.run_module(name, run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    sys.path.insert(0, "")  # as python -m does: a reader's own modules are found
    outcomes = [run(snippet) for snippet in json.load(sys.stdin)]
    sys.stdout.write(f"\n{json.dumps(outcomes)}\n")
