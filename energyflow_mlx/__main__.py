"""The command ``energyflow COMMAND ...``, the same as ``python -m energyflow_mlx``.

Every command is a module of the package, imported when it is called and not before, and
can be run on its own: ``energyflow encode`` is ``python -m energyflow_mlx.encode``.
"""

import importlib
import sys
from pathlib import Path

import energyflow_mlx
from energyflow_mlx.config.wording import suggestion
from energyflow_mlx.errors import one_line

COMMANDS = {
    "train": "train an encoder and a decoder; resumes, sweeps with -m",
    "encode": "sentences to vectors",
    "decode": "vectors to sentences",
    "evaluate": "measure a run on held-out sentences and STS files, or a teacher",
    "export": "write a run's weights for others",
    "prepare": "give sentences a teacher's vectors once, for many runs",
    "plot": "draw a run's curves and the flows of its lattice",
    "profile": "say where the time of a run's updates goes",
    "sweep-report": "show the table of a sweep again",
    "doctor": "say what this machine gives; `doctor kernels` checks the operations",
}


def main() -> None:
    """Call the command that the first word names, with the words after it."""
    is_script = Path(sys.argv[0]).name != "__main__.py"
    program = "energyflow" if is_script else "python -m energyflow_mlx"
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help", "help"):
        sys.stdout.write(usage(program))
        return
    if words[0] == "--version":
        sys.stdout.write(f"energyflow_mlx {energyflow_mlx.__version__}\n")
        return
    name = words[0]
    if name not in COMMANDS:
        hint = suggestion(name, COMMANDS) or f"; see {program} --help"
        message = one_line(f"error: [{program}] unknown command {name!r}{hint}")
        sys.stderr.write(f"{message}\n")
        sys.exit(2)
    # What the command's own help calls it; Hydra reads the words after it.
    sys.argv = [f"{program} {name}", *words[1:]]
    importlib.import_module(f"energyflow_mlx.{name.replace('-', '_')}").main()


def usage(program: str) -> str:
    """Help text: one line for each command.

    Args:
        program: The command as it was typed.
    """
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            f"usage: {program} COMMAND key=value ...",
            "",
            "Distilled text encoders, vector-to-text decoders and an energy lattice.",
            "",
            *lines,
            "",
            f"{program} COMMAND --help lists a command's keys, {program} --version "
            "says the version.\n",
        ]
    )


if __name__ == "__main__":
    main()
