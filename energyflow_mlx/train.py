"""Train an encoder and a decoder: ``python -m energyflow_mlx.train +experiment=ab``.

Composes the configuration with Hydra, builds the run, trains, evaluates on the
held-out sentences, and leaves everything in the run folder. ``-m`` sweeps.
"""

import logging
import os
import sys
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
from energyflow_mlx.config import Config
from energyflow_mlx.config import command_line as cli
from energyflow_mlx.config.store import CONF_FOLDER, register
from energyflow_mlx.errors import InputError
from energyflow_mlx.runs.sweep import SweepFolder

logger = logging.getLogger("energyflow_mlx")

register()
optuna_sweeper.register()


def to_config(composed: DictConfig) -> Config:
    """Typed configuration of one job, its run folder filled in.

    Raises:
        InputError: A value is out of range.
    """
    config = OmegaConf.to_object(composed)
    assert isinstance(config, Config)
    job = HydraConfig.get()
    if _is_sweep(job):
        config.run.dir = str(Path(job.sweep.dir) / str(job.sweep.subdir))
    return config


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
    sweep, words = SweepFolder(Path(job.sweep.dir)), list(job.overrides.task)
    return run_job(sweep, str(job.sweep.subdir), words, lambda: _train(composed, job))


def _train(composed: DictConfig, job: HydraConf) -> dict[str, Any]:
    """Train one job; returns its summary."""
    from energyflow_mlx.build.run import run
    from energyflow_mlx.teacher import import_function

    try:
        config = to_config(composed)
        logger.setLevel(config.trainer.log_level.upper())
        # Typed by the user, here and now: this is where a name becomes code.
        function = import_function(config.teacher.function)
        return run(config, list(job.overrides.task), function)
    finally:
        # Hydra has made the folder; where nothing was written nothing stays behind.
        with suppress(OSError):
            Path(job.runtime.output_dir).rmdir()


def main() -> None:
    """Command line: Hydra overrides; bad input is one line and exit status 2."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    # Without this Hydra prints its own multi-line report and exits with status 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        with cli.clean_exit():
            require_launcher(sys.argv[1:])
            _job()
    except OmegaConfBaseException as error:
        _refuse(cli.describe(error))
    except HydraException as error:
        cause = error.__cause__
        if isinstance(cause, OmegaConfBaseException):
            _refuse(f"{str(error).splitlines()[0]} {cli.describe(cause)}")
        _refuse(str(error).splitlines()[0])
    except AssertionError as error:
        # OmegaConf's way to say that a group is null; it does not say which.
        if "Unexpected type for root: NoneType" not in str(error):
            raise
        given = ", ".join(word for word in sys.argv[1:] if "." in word.split("=")[0])
        _refuse(
            f"{given}: a group named there is null; choose it first, as in "
            "'objectives={flow: {share: 1}}' or +experiment=NAME."
        )


def _refuse(message: str) -> None:
    sys.stderr.write(f"error: [config] {message}\n")
    sys.exit(2)


if __name__ == "__main__":
    main()


__all__ = ["InputError", "main", "to_config"]
