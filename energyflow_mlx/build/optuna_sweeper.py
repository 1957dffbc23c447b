"""``hydra/sweeper=optuna``: a sweep whose values Optuna chooses, trial after trial.

Hydra's own plugin for Optuna wants a version before 3 and ends with the first trial
that fails. This one is as small as the idea: ask the study for values, launch a job
with them as words of the command line, tell the study the job's figure.

A trial is a job with its number. The study lies in the sweep's folder, so the same
command goes on with it: trials that were not told (killed, refused, diverged) are
launched again with their values, then new ones follow up to ``n_trials``. Each trial
draws with a seed of its own, so an interruption changes no value.

Source: Optuna's ask-and-tell interface, Hydra's sweeper plugins.
"""

import logging
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from energyflow_mlx.errors import InputError, require_package
from energyflow_mlx.runs.sweep import SweepFolder

if TYPE_CHECKING:
    import optuna

logger = logging.getLogger(__name__)

# Hydra takes plugins from this package alone; ``register`` puts this module there.
_PACKAGE = "hydra_plugins.energyflow_mlx"
_SAMPLERS = ("tpe", "random")


@dataclass
class OptunaSweeperConfig:
    """Keys of ``hydra.sweeper`` when Optuna sweeps.

    Attributes:
        n_trials: Trials of the whole study, those of earlier commands included.
        n_jobs: Trials asked for together; a launcher may run them at once.
        sampler: ``tpe`` (learns from the trials) or ``random``.
    """

    _target_: str = f"{_PACKAGE}.OptunaSweeper"
    n_trials: int = 20
    n_jobs: int = 1
    sampler: str = "tpe"


class OptunaSweeper(Sweeper):
    """Asks, launches, tells; see the module."""

    hydra_context: HydraContext
    config: DictConfig
    launcher: Launcher

    def __init__(self, n_trials: int, n_jobs: int, sampler: str) -> None:
        if sampler not in _SAMPLERS or n_trials < 1 or n_jobs < 1:
            raise InputError(
                "[sweep] hydra.sweeper must have n_trials and n_jobs >= 1 and a "
                f"sampler of {', '.join(_SAMPLERS)}, got {n_trials}, {n_jobs} and "
                f"{sampler!r}."
            )
        self.n_trials, self.n_jobs, self.sampler = n_trials, n_jobs, sampler

    def setup(
        self,
        *,
        hydra_context: HydraContext,
        task_function: TaskFunction,
        config: DictConfig,
    ) -> None:
        """Take what Hydra hands a sweeper."""
        require_package("optuna", extra="sweep")
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Launch trials until the study has ``n_trials``."""
        parsed = OverridesParser.create().parse_overrides(arguments)
        space = {
            str(one.get_key_element()): _distribution(one)
            for one in parsed
            if one.is_sweep_override()
        }
        fixed = [str(one.input_line) for one in parsed if not one.is_sweep_override()]
        sweep = SweepFolder(Path(str(self.config.hydra.sweep.dir)))
        study = self._open(sweep, arguments)
        again = [trial for trial in study.trials if not trial.state.is_finished()]
        for first in range(0, len(again), self.n_jobs):
            self._launch(study, again[first : first + self.n_jobs], fixed)
        while (begun := len(study.trials)) < self.n_trials:
            count = min(self.n_jobs, self.n_trials - begun)
            trials = [self._ask(study, begun + n, space) for n in range(count)]
            self._launch(study, trials, fixed)
        self._report(study)

    def _open(self, sweep: SweepFolder, arguments: Sequence[str]) -> "optuna.Study":
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        from energyflow_mlx.training.objectives import Objective

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sweep.path.mkdir(parents=True, exist_ok=True)
        metric = str(self.config.trainer.best_metric)
        higher_is_better = {
            name: higher
            for kind in Objective.registered.values()
            for name, higher in kind.measures.items()
        }
        if metric not in higher_is_better:
            raise InputError(
                f"[sweep] trainer.best_metric must be one of "
                f"{', '.join(higher_is_better)}, got {metric!r}."
            )
        study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(sweep.study))),
            study_name="sweep",
            direction="maximize" if higher_is_better[metric] else "minimize",
            load_if_exists=True,
        )
        words = [f"{metric}:", *arguments]
        before = study.user_attrs.get("words", words)
        if before != words:
            raise InputError(
                f"[sweep] {sweep.path} belongs to another sweep: {' '.join(before)}; "
                "choose another run.dir."
            )
        study.set_user_attr("words", words)
        return study

    def _ask(
        self, study: "optuna.Study", number: int, space: dict[str, Any]
    ) -> "optuna.Trial":
        """The next trial, its values chosen."""
        import optuna

        seed = (int(self.config.seed) + number) % 2**32
        if self.sampler == "tpe":
            study.sampler = optuna.samplers.TPESampler(seed=seed)
        else:
            study.sampler = optuna.samplers.RandomSampler(seed=seed)
        return study.ask(space)

    def _launch(
        self, study: "optuna.Study", trials: Sequence[Any], fixed: Sequence[str]
    ) -> None:
        """Run trials as jobs; what has no figure stays open in the study."""
        words = [
            [
                *fixed,
                *(f"{key}={value}" for key, value in trial.params.items()),
                f"hydra.sweep.subdir={trial.number}",
            ]
            for trial in trials
        ]
        self.validate_batch_is_legal(words)
        returned = self.launcher.launch(words, initial_job_idx=trials[0].number)
        for trial, result in zip(trials, returned, strict=True):
            if math.isfinite(result.return_value):
                study.tell(trial.number, result.return_value)

    def _report(self, study: "optuna.Study") -> None:
        told = [trial for trial in study.trials if trial.state.is_finished()]
        if told:
            best = study.best_trial
            values = " ".join(f"{key}={value}" for key, value in best.params.items())
            metric = self.config.trainer.best_metric
            logger.info(
                "best: job %d, %s %.4f: %s", best.number, metric, best.value, values
            )


def _distribution(override: Override) -> "optuna.distributions.BaseDistribution":
    """What Optuna may choose for a key: an interval's numbers, or the listed values."""
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    value = override.value()
    if not isinstance(value, IntervalSweep):
        return CategoricalDistribution(list(override.sweep_string_iterator()))
    low, high, is_log = value.start, value.end, "log" in value.tags
    assert low is not None and high is not None
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=is_log)
    return FloatDistribution(float(low), float(high), log=is_log)


def register() -> None:
    """Tell Hydra the sweeper and its keys."""
    OptunaSweeper.__module__ = _PACKAGE
    Plugins.instance().register(OptunaSweeper)  # imports hydra_plugins, where it is
    top, _, name = _PACKAGE.partition(".")
    plugins = sys.modules.setdefault(top, ModuleType(top))
    setattr(plugins, name, sys.modules[__name__])
    node = OmegaConf.structured(OptunaSweeperConfig)
    ConfigStore.instance().store(group="hydra/sweeper", name="optuna", node=node)
