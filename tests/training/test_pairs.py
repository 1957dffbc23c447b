"""Pairs in a run: whose updates they make, resuming, and what is refused."""

import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.build.data import load_run_data
from energyflow_mlx.build.objectives import build_objectives
from energyflow_mlx.config import DistillationConfig
from energyflow_mlx.config.objectives import ParaphraseConfig
from energyflow_mlx.errors import InputError
from energyflow_mlx.training.feed import Feed
from energyflow_mlx.training.pairs import PairRows
from tests.build.tiny import SENTENCES, tokenizer
from tests.training.small import (
    make_config,
    make_stepper,
    make_trainer,
    objectives,
    on_device,
    quiet_display,
)
from tests.training.test_parallel import (
    assert_same_curve,
    curve,
    tiny_config,
    tiny_data,
)

NAME, KEY = "paraphrase", mx.random.key(0)
FIRST, SECOND = SENTENCES[:9], SENTENCES[9:]


def both(**settings):
    own = ParaphraseConfig(**{"file": "pairs.tsv", "lr": 1e-2} | settings)
    return objectives(distillation=DistillationConfig(), paraphrase=own)


def data_with_pairs():
    data, words = tiny_data(), tokenizer()
    data.pairs = PairRows(NAME, words.encode(FIRST, 32), words.encode(SECOND, 32))
    return data


def trainer_in(folder, **changes):
    mx.random.seed(0)
    config = tiny_config({"objectives": both()}, changes)
    return make_trainer(config, data_with_pairs(), folder)


def batch_of(ids):
    """Pairs from rows of ids, all of one length."""
    from energyflow_mlx.data.batching import Batch

    ids = np.array(ids, np.int32)
    mask = np.ones(ids.shape, np.float32)
    return on_device(Batch(ids, mask, np.zeros((len(ids), 1), np.float32)))


def measured(ids, **settings):
    """Outcome of a fresh model on pairs, and its unit vectors ``[2P, E]``."""
    stepper = make_stepper(make_config(objectives=both(**settings), share="none"))
    (objective,) = [o for o in stepper.objectives if o.name == NAME]
    table = stepper.model.encoder.embedding.weight
    # At their start all vectors are much alike, and both directions too.
    stepper.model.encoder.embedding.weight = mx.random.normal(table.shape, key=KEY)
    batch = batch_of(ids)
    y = np.array(stepper.model.encode(batch.ids, batch.mask), np.float64)
    y /= np.linalg.norm(y, axis=1, keepdims=True)
    return objective.loss(stepper.model, batch, KEY), y


def picked(scores):
    """Cross entropy of the diagonal, summed over rows."""
    return (np.log(np.exp(scores).sum(1)) - np.diag(scores)).sum()


DISTINCT = np.random.default_rng(0).permutation(48).reshape(8, 6) + 1


def test_loss_is_the_mean_cross_entropy_of_both_directions():
    outcome, y = measured(DISTINCT, temperature=0.2)
    scores = y[0::2] @ y[1::2].T / 0.2
    expected = (picked(scores) + picked(scores.T)) / 2
    assert picked(scores) != pytest.approx(picked(scores.T), rel=1e-2)
    assert outcome.loss.item() == pytest.approx(expected, rel=1e-4)
    assert outcome.count.item() == 4


def test_a_pairs_own_sentence_elsewhere_in_the_batch_is_no_wrong_answer():
    """Pair 1 begins with the sentence that pair 0 ends with."""
    ids = DISTINCT.copy()
    ids[2] = ids[1]
    outcome, y = measured(ids, temperature=0.2)
    scores = y[0::2] @ y[1::2].T / 0.2
    forth, back = scores.copy(), scores.T.copy()
    forth[1, 0] = back[0, 1] = -np.inf
    expected = (picked(forth) + picked(back)) / 2
    assert outcome.loss.item() == pytest.approx(expected, rel=1e-4)


def test_gradient_of_the_loss_is_that_of_finite_differences():
    config = make_config(objectives=both(temperature=0.2), share="none")
    stepper = make_stepper(config)
    (objective,) = [o for o in stepper.objectives if o.name == NAME]
    batch, bias = batch_of(DISTINCT), stepper.model.encoder.head.bias

    def loss(x):
        stepper.model.encoder.head.bias = x
        return objective.loss(stepper.model, batch, KEY).loss

    gradient, step = mx.grad(loss)(bias), 1e-2
    for place in (0, 5):
        moved = mx.zeros(bias.shape)
        moved[place] = step
        slope = (loss(bias + moved) - loss(bias - moved)).item() / (2 * step)
        assert gradient[place].item() == pytest.approx(slope, rel=0.02, abs=1e-3)


def test_pairs_make_the_updates_of_their_objective_and_no_other(tmp_path):
    trainer = trainer_in(tmp_path)
    feed, plain = trainer.feed.updates(0), Feed(tiny_data(), trainer.config).updates(0)
    known = {*zip(map(tuple, trainer.data.pairs.first),
                  map(tuple, trainer.data.pairs.second), strict=True)}  # fmt: skip
    taken = []
    for number in range(8):
        (micro,), (other,) = next(feed), next(plain)
        if trainer.alternation.objective_of(number) != NAME:
            assert mx.array_equal(micro.ids, other.ids)
            continue
        rows = [tuple(row[m > 0]) for row, m in zip(
            np.array(micro.ids), np.array(micro.mask), strict=True)]  # fmt: skip
        pairs = [*zip(rows[0::2], rows[1::2], strict=True)]
        assert set(pairs) <= known
        taken += pairs
    assert len(set(taken)) == len(taken) == 8  # four updates of two, one pass
    feed.close(), plain.close()


def test_a_run_with_pairs_lowers_their_loss_and_resumes_with_the_same_bits(tmp_path):
    whole = trainer_in(tmp_path / "whole", **{"trainer.max_steps": 24})
    whole.run()
    records = [r for r in curve(tmp_path / "whole") if f"{NAME}_loss" in r]
    losses = [r[f"{NAME}_loss"] for r in records]
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
    folder, name = tmp_path / "resumed", "checkpoints/step_00000010"
    (folder / "checkpoints").mkdir(parents=True)
    (tmp_path / "whole" / name).rename(folder / name)
    log = (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    (folder / "metrics.jsonl").write_bytes(log)
    resumed = trainer_in(folder, **{"trainer.max_steps": 24})
    assert resumed.progress.step == 10
    resumed.run()
    assert_same_curve(curve(folder), curve(tmp_path / "whole"), 0)
    one, two = whole.stepper.state.arrays(), resumed.stepper.state.arrays()
    assert all(mx.array_equal(one[path], two[path]) for path in one)


def test_fewer_pairs_than_an_update_takes_are_refused(tmp_path):
    config = tiny_config({"objectives": both(), "trainer.micro_batch": 8})
    data = data_with_pairs()
    data.pairs = PairRows(NAME, data.pairs.first[:3], data.pairs.second[:3])
    with pytest.raises(
        InputError, match="hold the 4 pairs of an update or more, got 3"
    ):
        make_trainer(config, data, tmp_path)


def test_settings_that_do_not_fit_pairs_are_refused():
    with pytest.raises(InputError, match="paraphrase.file must be a file of pairs"):
        build_objectives(tiny_config({"objectives": both(file=None)}))
    odd = tiny_config({"objectives": both(), "trainer.micro_batch": 5})
    with pytest.raises(InputError, match="micro_batch must be even, because paraphr"):
        build_objectives(odd)


def test_pairs_of_a_file_reach_the_run_and_its_vocabulary(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text("a zebra gallops\tone zebra, galloping\n" * 3, encoding="utf-8")
    config = tiny_config(
        {"objectives": both(file=str(path)), "data.captions": 100},
        {"teacher.cache_dir": str(tmp_path / "cache")},
    )
    data = load_run_data(config, build_objectives(config), None, quiet_display())
    assert data.pairs.objective == NAME
    assert [len(data.pairs.first), len(data.pairs.second)] == [3, 3]
    words = data.tokenizer.decode(np.array([data.pairs.first[0]]))
    assert words == ["a zebra gallops"]
    config.objectives = objectives(distillation=DistillationConfig(lr=1e-3))
    plain = load_run_data(config, build_objectives(config), None, quiet_display())
    (spelt,) = plain.tokenizer.encode(["a zebra gallops"], 32)
    assert plain.pairs is None and len(data.pairs.first[0]) < len(spelt)
