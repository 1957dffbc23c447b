"""A fifth objective needs one class, one dataclass and one experiment, nothing else."""

from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from energyflow_mlx.build.run import run
from energyflow_mlx.config import ObjectiveConfig, config_from_json, objective_settings
from energyflow_mlx.config import objectives as registry
from energyflow_mlx.config.store import CONF_FOLDER, register
from energyflow_mlx.runs.metrics import read_metrics
from energyflow_mlx.training.objectives import Objective, Outcome

EXPERIMENT = """# @package _global_
name: toy
share: none
objectives:
  distillation: null
  reconstruction: null
  toy: {lr: 1.0e-2, weight: 3.0}
encoder: {dim: 16, hidden: 24}
data: {captions: 160, buckets: [16, 32], max_length: 32}
trainer: {max_steps: 12, micro_batch: 16, log_every: 4, best_metric: norm}
"""


@pytest.fixture
def toy():
    """Register the objective, and take it away again."""

    @objective_settings("toy")
    @dataclass
    class ToyConfig(ObjectiveConfig):
        """Settings of the toy."""

        weight: float = 1.0

    class Toy(Objective):
        """Train the encoder to give long vectors."""

        name = "toy"
        measures = {"norm": True}
        parts = ("encoder",)

        def loss(self, model, batch, key):
            y = model.encode(batch.ids, batch.mask, key=key)
            length = mx.sum(mx.linalg.norm(y, axis=-1))
            count = mx.array(float(len(y)))
            return Outcome(-self.settings.weight * length, count, {"norm": length})

        def validate(self, codec, held_out, engine):
            vectors = codec.encode_ids(held_out.ids, batch_size=64, normalize=False)
            return {"norm": float((vectors**2).sum(axis=1).mean() ** 0.5)}

    yield Toy
    del registry._REGISTERED["toy"], Objective.registered["toy"]
    register()


def test_a_toy_objective_trains_from_its_experiment(toy, tmp_path: Path):
    conf = tmp_path / "conf" / "experiment"
    conf.mkdir(parents=True)
    (conf / "toy.yaml").write_text(EXPERIMENT)
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF_FOLDER), version_base="1.3"):
        path = f"hydra.searchpath=[file://{tmp_path / 'conf'}]"
        folder = f"run.dir={tmp_path / 'run'}"
        config = OmegaConf.to_object(
            compose("config", ["+experiment=toy", path, folder])
        )
    assert config_from_json(config.to_json()) == config
    summary = run(config)
    assert summary["parameters"].keys() == {"encoder", "total"}
    records = read_metrics(tmp_path / "run" / "metrics.jsonl")
    lengths = [r["norm"] for r in records if r["kind"] == "train"]
    assert lengths[-1] > 1.5 * lengths[0]
    assert {"toy_loss", "toy_lr", "toy_grad_norm"} <= records[0].keys()
    assert summary["final"]["norm"] > lengths[0]
