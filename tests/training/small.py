"""Small configurations, models and batches for tests of training."""

import io

import mlx.core as mx
import numpy as np
from rich.console import Console

from energyflow_mlx.build.model import build_model, start_tables
from energyflow_mlx.build.objectives import build_objectives, parts_of
from energyflow_mlx.config import Config, objectives_type
from energyflow_mlx.data.batching import Batch, TargetRows, target_rows
from energyflow_mlx.display import RunDisplay
from energyflow_mlx.inference import SentenceCodec
from energyflow_mlx.runs.folder import RunFolder
from energyflow_mlx.runtime.distributed import ALONE
from energyflow_mlx.training import feed as feeding
from energyflow_mlx.training.feed import Feed
from energyflow_mlx.training.loop import Trainer
from energyflow_mlx.training.objectives import StepBatch
from energyflow_mlx.training.token_rows import occurring_rows
from energyflow_mlx.training.update import Stepper

V, E, B, L = 50, 12, 6, 8


def objectives(**members):
    """The group of objectives with these members and no others."""
    return objectives_type()(**members)


def set_key(config, key, value):
    """Set a setting by its dotted key."""
    *groups, name = key.split(".")
    for group in groups:
        config = getattr(config, group)
    assert hasattr(config, name), key
    setattr(config, name, value)


def make_config(changes=None, **keywords):
    """A tiny model; ``changes`` by dotted key."""
    config = Config(**keywords)
    for part in (config.encoder, config.decoder):
        part.dim, part.hidden = 16, 24
    for key, value in (changes or {}).items():
        set_key(config, key, value)
    config.__post_init__()  # rates of objectives that the changes brought
    return config


def make_stepper(config=None, vocab_size=V, dimension=E):
    config = config or make_config()
    made = build_objectives(config)
    model = build_model(config, parts_of(made), vocab_size, dimension)
    model.train()
    return Stepper(model, config, list(made.values()))


def make_batch(seed=0, size=B):
    """Sentences of 3 to L tokens with unit targets, on the host."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, L + 1, size)
    mask = (np.arange(L) < lengths[:, None]).astype(np.float32)
    ids = (rng.integers(1, V, (size, L)) * mask).astype(np.int32)
    target = rng.normal(size=(size, E)).astype(np.float32)
    return Batch(ids, mask, target / np.linalg.norm(target, axis=1, keepdims=True))


def make_feed(config, vocab_size=V):
    """A feed without sentences: it cuts given batches."""
    feed = Feed.__new__(Feed)
    feed._config, feed._vocab_size, feed._group = config, vocab_size, ALONE
    feed._shares = np.full(vocab_size, 1 / vocab_size)
    feed._capacities = {}
    return feed


def to_update(batch, config, number=0):
    """Micro-batches of one update on the device."""
    feed = make_feed(config)
    return feeding.on_device(feed.micro_batches(batch, feed.rows_of(batch, number)))


def on_device(batch):
    """One micro-batch without an update around it."""
    rows = occurring_rows(batch.ids, V)
    targets = target_rows(batch.ids, batch.mask, batch.mask.size)
    targets = TargetRows(*map(mx.array, targets))
    return StepBatch(*(mx.array(a) for a in batch), rows=rows, targets=targets)


def step(stepper, objective, batch, lr=1e-2, seed=0):
    """One update; its report on the host."""
    (micro,) = to_update(batch, stepper.config)
    made = next(o for o in stepper.objectives if o.name == objective)
    controls = {k: mx.array(v) for k, v in made.controls(0).items()}
    micro = micro._replace(controls=controls)
    report = stepper.update(objective, micro, mx.random.key(seed), lr)
    mx.eval(report, stepper.state.arrays())
    return {name: value.item() for name, value in report.items()}


def gradients(stepper, objective, batch, seed=0):
    """Gradients, loss and metrics of one micro-batch, on the host."""
    (micro,) = to_update(batch, stepper.config)
    found = stepper.micro_gradients(objective, micro, mx.random.key(seed))
    mx.eval(found)
    return found._replace(gradients=stepper.packing.split(found.gradients))


def weights(stepper):
    """Every parameter on the host, by path."""
    return {k: np.array(v) for k, v in stepper.state.parameters.items()}


def quiet_display():
    return RunDisplay(console=Console(file=io.StringIO()))


def make_trainer(config, data, folder, group=ALONE):
    """A trainer of a fresh model in a folder that is empty or holds its run."""
    made = build_objectives(config)
    model = build_model(
        config, parts_of(made), data.tokenizer.vocab_size, data.dimension
    )
    start_tables(model, config, data.word_embeddings)
    codec = SentenceCodec(model, data.tokenizer, config, data.dimension)
    model.train()
    run = RunFolder(folder, group.is_writer)
    return Trainer(config, made, codec, data, run, quiet_display(), group)
