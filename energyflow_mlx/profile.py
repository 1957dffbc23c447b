"""Where a run's time and memory go: ``python -m energyflow_mlx.profile run=PATH``.

Takes the run's data, model and newest weights, runs some updates, shows a table and
writes it to ``profile.txt`` and ``profile.json`` in the run's folder. The run itself is
left as it is.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from energyflow_mlx.config import command_line as cli
from energyflow_mlx.config.checks import bounds, require_bounds
from energyflow_mlx.errors import InputError

if TYPE_CHECKING:
    from energyflow_mlx.config import Config

_MOST_UPDATES = 100_000


@dataclass
class ProfileArgs:
    """Profile the next updates of a run, without training it on."""

    run: str = field(default="???", metadata={"help": "run folder"})
    updates: int = field(
        default=20, metadata={"help": "updates to measure"} | bounds(4, _MOST_UPDATES)
    )
    capture: str | None = field(
        default=None, metadata={"help": "new .gputrace file of the GPU's work (Metal)"}
    )
    function: str | None = field(
        default=None,
        metadata={"help": "package.module:name, if the teacher is a function"},
    )


def profile(args: ProfileArgs) -> None:
    """Measure, show, store.

    Raises:
        InputError: An argument is wrong, or there is no run.
    """
    from energyflow_mlx.display import RunDisplay
    from energyflow_mlx.runs.folder import RunFolder

    require_bounds(args, "profile")
    folder = RunFolder(Path(args.run))
    config = folder.read_config()
    if args.capture is not None:
        _check_capture(Path(args.capture))
    with RunDisplay(title="profile") as display:
        report, rows = _measure(args, config, folder, display)
        display.table(f"Updates of {args.run}", ["what", "how much"], rows)
    _write(folder, report, rows)


def _measure(
    args: ProfileArgs, config: "Config", folder: Any, display: Any
) -> tuple[dict[str, Any], list[list[str]]]:
    from energyflow_mlx.build.objectives import build_objectives
    from energyflow_mlx.build.run import build_trainer
    from energyflow_mlx.runtime import blas, device, jit_headers
    from energyflow_mlx.teacher import import_function
    from energyflow_mlx.training.profiling import describe, profile_updates

    device.select(config.trainer.backend)
    jit_headers.prepare()
    function = import_function(args.function)
    trainer = build_trainer(
        config, build_objectives(config), folder, display, function=function
    )
    capture = args.capture
    around = None if capture is None else lambda: _captured(Path(capture))
    here = {
        "device": str(device.describe()),
        "blas": str(blas.info()),
        "precision": config.precision.dtype,
    }
    report = here | profile_updates(trainer, args.updates, around)
    rows = [[name, text] for name, text in [*here.items(), *describe(report)]]
    return report, rows


def _write(folder: Any, report: dict[str, Any], rows: list[list[str]]) -> None:
    from energyflow_mlx.runtime.atomic import write_text
    from energyflow_mlx.runtime.json_text import json_text

    write_text(folder.profile, json_text(report, indent=1) + "\n")
    width = max(len(name) for name, _ in rows)
    text = "".join(f"{name:{width}}  {value}\n" for name, value in rows)
    write_text(folder.profile.with_suffix(".txt"), text)


def _check_capture(path: Path) -> None:
    """Refuse a capture that MLX could not make.

    Raises:
        InputError: There is no Metal device, or the name will not do.
    """
    import os

    from energyflow_mlx.runtime import device

    if "metal" not in device.available():
        have = " and ".join(device.available())
        raise InputError(f"[profile] capture must have a Metal GPU, got {have} only.")
    if path.suffix != ".gputrace" or path.exists():
        raise InputError(f"[profile] capture must be a new .gputrace file, got {path}.")
    if os.environ.get("MTL_CAPTURE_ENABLED") != "1":
        raise InputError(
            "[profile] capture must be allowed by MTL_CAPTURE_ENABLED=1 in the "
            "environment, got none."
        )


@contextmanager
def _captured(path: Path) -> Iterator[None]:
    """Record the GPU's work in a file that Xcode opens."""
    import mlx.core as mx

    mx.metal.start_capture(str(path))
    try:
        yield
    finally:
        mx.metal.stop_capture()


def main() -> None:
    """Command line; see the module."""
    cli.main(ProfileArgs, profile)


if __name__ == "__main__":
    main()
