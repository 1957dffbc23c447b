"""A process that has imported everything and forks for every run: no second of imports.

Reads one job a line from standard input and answers with two lines: the number of the
child, and how it ended. MLX starts no thread before it evaluates something, which
happens in the children alone; the server looks after that before every fork.
"""

import ctypes
import json
import os
import sys

MODES = {"count": 0, "kill": 1, "tear": 2, "full": 3, "broken": 4}


def import_everything():
    """Load what the commands load."""
    import energyflow_mlx.build.run
    import energyflow_mlx.decode
    import energyflow_mlx.encode
    import energyflow_mlx.evaluate
    import energyflow_mlx.export
    import energyflow_mlx.prepare
    import energyflow_mlx.train  # noqa: F401


def become(job):
    """Turn a fresh child into the process of a command.

    Args:
        job: ``words`` of ``energyflow``, ``output`` for what it says, ``folder`` to
            watch, ``mode`` and operation ``at``, ``trace`` for the list of operations.
    """
    output = os.open(job["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(job["folder"])
    sys.argv = ["energyflow", *job["words"]]
    arm = ctypes.CDLL(None).fault_arm if job["mode"] else None
    if arm is not None:
        arm.argtypes = (ctypes.c_char_p, ctypes.c_int, ctypes.c_long, ctypes.c_char_p)
        folder, trace = os.fsencode(job["folder"]), os.fsencode(job["trace"])
        arm(folder, MODES[job["mode"]], job["at"], trace)


def say(answers, number):
    """Answer at once."""
    answers.write(f"{number}\n")
    answers.flush()


def serve():
    """Fork until the input ends; in a child, return for the command to run."""
    import_everything()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in iter(sys.stdin.readline, ""):
        assert len(os.listdir("/proc/self/task")) == 1, "a thread before the fork"
        child = os.fork()
        if child == 0:
            answers.close()
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            become(json.loads(line))
            return True
        say(answers, child)
        _, status = os.waitpid(child, 0)
        say(answers, os.waitstatus_to_exitcode(status))
    return False


if __name__ == "__main__":
    if serve():
        from energyflow_mlx.__main__ import main

        main()
