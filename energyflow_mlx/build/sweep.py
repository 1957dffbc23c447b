"""One job of a sweep: it may fail without ending the others."""

import logging
import math
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import distributions
from typing import Any

from omegaconf.errors import OmegaConfBaseException

from energyflow_mlx.errors import (
    DiskError,
    InputError,
    OutOfMemory,
    install_command,
)
from energyflow_mlx.runs.sweep import SweepFolder

logger = logging.getLogger(__name__)


def require_launcher(words: Sequence[str]) -> None:
    """Refuse jobs in parallel where the package for it is not installed.

    Args:
        words: The command line.

    Raises:
        InputError: Hydra's launcher for joblib is asked for and missing.
    """
    names = {dist.name for dist in distributions(name="hydra-joblib-launcher")}
    if "hydra/launcher=joblib" in words and not names:
        raise InputError(
            "[sweep] hydra-joblib-launcher is needed and not installed: "
            f"{install_command('sweep')}"
        )


def run_job(
    sweep: SweepFolder, job: str, overrides: Sequence[str], train: Callable[[], Any]
) -> float:
    """Train one job of a sweep; keeps how it ended where it does not finish.

    Args:
        sweep: Folder of the sweep.
        job: The job's folder below it.
        overrides: What the user set for it, as ``key=value``.
        train: Trains it, and gives its summary.

    Returns:
        The figure that chose its best checkpoint; NaN where it did not finish.
    """
    sweep.note(job, "unfinished", overrides)
    try:
        summary = train()
    except (InputError, OmegaConfBaseException) as error:
        return _did_not_finish(sweep, job, overrides, "refused", error)
    except FloatingPointError as error:
        return _did_not_finish(sweep, job, overrides, "diverged", error)
    except DiskError as error:
        return _did_not_finish(sweep, job, overrides, "failed", error)
    except (RuntimeError, OSError, MemoryError) as error:
        known = OutOfMemory.of(error)
        if known is None:
            logger.warning("job %s failed", job, exc_info=True)
        return _did_not_finish(sweep, job, overrides, "failed", known or error)
    except KeyboardInterrupt:
        sweep.note(job, "interrupted", overrides, "the same command goes on with it")
        raise
    sweep.forget(job)
    return main_figure(summary)


def main_figure(summary: dict[str, Any]) -> float:
    """The validation figure that chose a run's best checkpoint, at that one."""
    figure = next(iter(summary["best"].values()))
    return math.nan if figure is None else float(figure)  # JSON has no NaN


def _did_not_finish(
    sweep: SweepFolder,
    job: str,
    overrides: Sequence[str],
    status: str,
    error: Exception,
) -> float:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    sweep.note(job, status, overrides, lines[0])
    sys.stderr.write(f"job {job} {status}: {lines[0]}\n")
    return float("nan")
