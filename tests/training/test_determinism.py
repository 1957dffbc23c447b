"""One whole epoch, run twice, ends in the same bits."""

import numpy as np
import pytest
from mlx.utils import tree_flatten

from energyflow_mlx.build.data import load_run_data
from energyflow_mlx.build.objectives import build_objectives
from energyflow_mlx.config import Config
from tests.training.small import make_trainer, quiet_display


def make_config(cache_dir, seed=7):
    """A tiny model with everything random switched on."""
    config = Config()
    config.seed = seed
    config.data.captions = 160
    config.data.buckets = [16, 32]
    config.data.max_length = 32
    config.teacher.cache_dir = str(cache_dir)
    for part in (config.encoder, config.decoder):
        part.dim, part.hidden = 16, 24
        part.dropout = 0.1
    config.encoder.token_dropout = 0.1
    config.trainer.micro_batch = 32
    config.trainer.epochs = 1
    return config


def weights(model):
    """Every weight as its bytes, by path."""
    return {k: np.array(v).tobytes() for k, v in tree_flatten(model.parameters())}


def train_one_epoch(config, folder):
    """Weights before and after, from data loaded and a model built anew."""
    data = load_run_data(config, build_objectives(config), None, quiet_display())
    trainer = make_trainer(config, data, folder)
    model = trainer.codec.model
    before = weights(model)
    trainer.run()
    assert trainer.total == trainer.steps_per_epoch > 2
    return before, weights(model)


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def first_run(cache_dir, tmp_path_factory):
    return train_one_epoch(make_config(cache_dir), tmp_path_factory.mktemp("first"))


def test_one_epoch_twice_gives_the_same_bits(first_run, cache_dir, tmp_path):
    before, after = first_run
    _, again = train_one_epoch(make_config(cache_dir), tmp_path)
    assert after == again
    moved = [path for path in after if after[path] != before[path]]
    assert len(moved) > len(after) / 2


def test_another_seed_gives_other_bits(first_run, cache_dir, tmp_path):
    """So that the test above compares something that randomness reaches."""
    _, after = first_run
    _, other = train_one_epoch(make_config(cache_dir, seed=8), tmp_path)
    assert after.keys() == other.keys()
    assert after != other
