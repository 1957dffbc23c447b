"""Train an encoder and a decoder: ``python -m energyflow_mlx.train +experiment=ab``.

Composes the configuration with Hydra, builds the run, trains, evaluates on the
held-out sentences, and leaves everything in the run folder. ``-m`` sweeps.
"""

import logging
import os
import shlex
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

import hydra
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from energyflow_mlx.build import optuna_sweeper
from energyflow_mlx.build.sweep import main_figure, require_launcher, run_job
from energyflow_mlx.config import Config, train_line
from energyflow_mlx.config import command_line as cli
from energyflow_mlx.config.store import CONF_FOLDER, register
from energyflow_mlx.errors import InputError
from energyflow_mlx.runs.sweep import SweepFolder

logger = logging.getLogger("energyflow_mlx")

_DEFAULT = "+experiment=smoke"  # what is trained where nothing is said
_SWEEP_CONFIG = "multirun.yaml"  # Hydra's own record, of a sweep's folder

register()
optuna_sweeper.register()


def to_config(composed: DictConfig) -> Config:
    """Typed configuration of one job, its run folder filled in.

    Raises:
        InputError: A value is of another type than its key, or out of range.
    """
    job = HydraConfig.get()
    try:
        config = OmegaConf.to_object(composed)
    except OmegaConfBaseException as error:
        said = train_line.say(error, _words(job))
        raise InputError(f"[config] {said}") from None
    assert isinstance(config, Config)
    if _is_sweep(job):
        config.run.dir = str(Path(job.sweep.dir) / str(job.sweep.subdir))
    return config


def _remove_unused(job: Path, sweep: Path) -> None:
    """Take away the folders that Hydra made for a sweep, where no run was begun.

    Args:
        job: Folder of one job.
        sweep: Folder of the sweep.
    """
    with suppress(OSError):
        job.rmdir()
    if [path.name for path in sweep.iterdir()] == [_SWEEP_CONFIG]:
        (sweep / _SWEEP_CONFIG).unlink()
        sweep.rmdir()


def _words(job: HydraConf) -> list[str]:
    """What the user set for a job, as it was typed; references stay references."""
    words = OmegaConf.to_container(job.overrides.task, resolve=False)
    assert isinstance(words, list)
    return [str(word) for word in words]


def _is_sweep(job: HydraConf) -> bool:
    return str(job.mode).endswith("MULTIRUN")


@hydra.main(version_base="1.3", config_path=str(CONF_FOLDER), config_name="config")
def _job(composed: DictConfig) -> float:
    """One Hydra job; returns the figure that chose the best checkpoint."""
    from energyflow_mlx.runtime import distributed

    job = HydraConfig.get()
    if not _is_sweep(job):
        with cli.clean_exit():
            return main_figure(_train(composed, job))
    if distributed.join().size > 1:
        raise InputError(
            "[distributed] a sweep must have one process, got several; launch its jobs "
            "one by one."
        )
    sweep = SweepFolder(Path(job.sweep.dir))
    return run_job(
        sweep, str(job.sweep.subdir), _words(job), lambda: _train(composed, job)
    )


def _train(composed: DictConfig, job: HydraConf) -> dict[str, Any]:
    """Train one job; returns its summary."""
    from energyflow_mlx.build.run import run
    from energyflow_mlx.teacher import import_function

    try:
        config = to_config(composed)
        logger.setLevel(config.trainer.log_level.upper())
        # Typed by the user, here and now: this is where a name becomes code.
        function = import_function(config.teacher.function)
        command = shlex.join([*cli.program_of(__name__).split(" "), *sys.argv[1:]])
        return run(config, _words(job), function, command)
    finally:
        # Hydra makes a folder for each job of a sweep; an empty one does not stay.
        if _is_sweep(job):
            with suppress(OSError):
                Path(job.runtime.output_dir).rmdir()


def main() -> None:
    """Command line: Hydra overrides; bad input is one line and exit status 2."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    if not sys.argv[1:]:
        sys.argv.append(_DEFAULT)
        sys.stdout.write(f"nothing was chosen: {_DEFAULT}, which takes a minute\n")
    words = sys.argv[1:]
    if any(word in ("-h", "--help") for word in words):
        sys.stdout.write(train_line.usage(cli.program_of(__name__)))
        return
    # Without this Hydra prints its own multi-line report and exits with status 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    with cli.clean_exit():
        train_line.check(words)
        require_launcher(words)
        try:
            _job()
        except (OmegaConfBaseException, HydraException) as error:
            raise InputError(f"[config] {train_line.say(error, words)}") from None
        except (AssertionError, AttributeError) as error:
            # OmegaConf's ways to meet a null group; the composition alone is asked.
            meant = train_line.null_group(words) if _in_composition(error) else None
            if meant is None:
                raise
            raise InputError(f"[config] {meant}") from None


def _in_composition(error: BaseException) -> bool:
    """Whether an error comes out of OmegaConf itself, not of a job."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return frames[-1].f_globals.get("__name__", "").startswith("omegaconf")


if __name__ == "__main__":
    main()


__all__ = ["InputError", "main", "to_config"]
