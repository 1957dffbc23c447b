"""What each objective's loss is made of: every term, its weight and its sign."""

import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.build.objectives import build_objectives
from energyflow_mlx.config import DistillationConfig, ReconstructionConfig
from energyflow_mlx.nn.losses import similarity_kl, similarity_mse
from energyflow_mlx.training.objectives import StepBatch
from energyflow_mlx.training.objectives.distillation import vector_distance
from tests.training.small import (
    V,
    make_batch,
    make_config,
    make_stepper,
    objectives,
    on_device,
)

A, B = "distillation", "reconstruction"
KEY = mx.random.key(3)


def rows(seed, count=5, width=7):
    x = np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def distance(y, target, **weights):
    settings = DistillationConfig(**({"cosine": 0.0, "mse": 0.0} | weights))
    return vector_distance(mx.array(y), mx.array(target), settings).loss.item()


def test_distance_is_the_weighted_sum_of_its_terms():
    y, t = 2 * rows(0), rows(1)
    cos = (y * t).sum(1) / np.linalg.norm(y, axis=1)
    mse = ((y - t) ** 2).mean(1)
    scores = (y / np.linalg.norm(y, axis=1, keepdims=True)) @ t.T / 0.05
    picked = np.log(np.exp(scores).sum(1)) - np.diag(scores)
    assert distance(y, t, cosine=2.0) == pytest.approx(2 * (1 - cos).sum(), rel=1e-5)
    assert distance(y, t, mse=3.0) == pytest.approx(3 * mse.sum(), rel=1e-5)
    found = distance(y, t, contrastive=0.5, mse=1e-30)
    assert found == pytest.approx(0.5 * picked.sum(), rel=1e-4)
    found = distance(y, t, cosine=2.0, mse=3.0, contrastive=0.5)
    whole = 2 * (1 - cos).sum() + 3 * mse.sum() + 0.5 * picked.sum()
    assert found == pytest.approx(whole, rel=1e-4)


def test_contrastive_term_is_lower_where_the_own_target_is_nearest():
    t = rows(2)
    right = distance(t, t, contrastive=1.0, mse=1e-30)
    wrong = distance(t[::-1].copy(), t, contrastive=1.0, mse=1e-30)
    assert right < wrong
    far = distance(t, t, contrastive=1.0, mse=1e-30, temperature=1.0)
    assert right < far


def loss_of(settings, name=B, *, seed=0, config=None, key=KEY):
    """Loss per target and metrics of one batch on a fresh model of fixed weights."""
    config = config or make_config(objectives=objectives(**settings), share="none")
    config.trainer.best_metric = "ce" if name == B else "cosine"
    stepper = make_stepper(config)
    (objective,) = [o for o in stepper.objectives if o.name == name]
    batch = on_device(make_batch(seed))
    outcome = objective.loss(stepper.model, batch, key)
    count = outcome.count.item()
    return outcome.loss.item() / count, {
        k: v.item() / count for k, v in outcome.metrics.items()
    }


def reconstruct(**settings):
    return loss_of({B: ReconstructionConfig(**settings)})


def test_reconstruction_is_the_mean_cross_entropy_of_real_targets():
    config = make_config(
        objectives=objectives(reconstruction=ReconstructionConfig()),
        share="none",
    )
    config.trainer.best_metric = "ce"
    stepper = make_stepper(config)
    batch = on_device(make_batch(0))
    logits = stepper.model.decoder(batch.ids[:, :-1], batch.mask[:, :-1], batch.target)
    picked = mx.take_along_axis(
        logits - mx.logsumexp(logits, axis=-1, keepdims=True),
        batch.ids[:, 1:, None],
        axis=-1,
    )[..., 0]
    expected = -(picked * batch.mask[:, 1:]).sum() / batch.mask[:, 1:].sum()
    loss, metrics = reconstruct()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert metrics["ce"] == pytest.approx(loss, rel=1e-6)


def test_label_smoothing_reaches_the_cross_entropy():
    assert reconstruct(label_smoothing=0.3)[0] != pytest.approx(
        reconstruct()[0], rel=1e-4
    )


def test_latent_noise_moves_the_vector_that_is_decoded_and_follows_the_key():
    plain = reconstruct()[0]
    noisy = reconstruct(latent_noise=2.0)[0]
    assert noisy != pytest.approx(plain, rel=1e-4)
    settings = {B: ReconstructionConfig(latent_noise=2.0)}
    assert loss_of(settings, key=mx.random.key(4))[0] != noisy
    assert loss_of(settings)[0] == noisy


def test_student_cross_entropy_adds_its_weight_and_trains_the_encoder():
    config = make_config(
        objectives=objectives(reconstruction=ReconstructionConfig(student_ce=0.5))
    )
    loss, metrics = loss_of({}, config=config)
    assert metrics["student_ce"] > 0
    assert loss == pytest.approx(metrics["ce"] + 0.5 * metrics["student_ce"], rel=1e-5)
    (objective,) = build_objectives(config).values()
    assert "encoder" in objective.parts


def test_distillation_compares_the_encoders_vector_with_the_target():
    config = make_config(
        objectives=objectives(distillation=DistillationConfig(mse=0.0)), share="none"
    )
    stepper = make_stepper(config)
    batch = on_device(make_batch(1))
    y = stepper.model.encode(batch.ids, batch.mask)
    outcome = stepper.objectives[0].loss(stepper.model, batch, KEY)
    cos = mx.sum(y * batch.target, axis=1) / (
        mx.linalg.norm(y, axis=1) * mx.linalg.norm(batch.target, axis=1)
    )
    assert outcome.loss.item() == pytest.approx((1 - cos).sum().item(), rel=1e-5)
    assert outcome.count.item() == len(batch.ids)


def test_what_an_objective_sees_are_token_ids():
    """Whatever is gathered: the ids of a batch are those of the tokenizer."""
    seen = []
    config = make_config({"token_rows.candidates": 40})
    stepper = make_stepper(config)
    objective = stepper.objectives[1]
    loss = type(objective).loss

    def spy(self, model, batch: StepBatch, key):
        seen.append(batch.ids)
        return loss(self, model, batch, key)

    type(objective).loss = spy
    try:
        config.trainer.compile = False
        from tests.training.small import gradients

        gradients(stepper, B, make_batch(2))
    finally:
        type(objective).loss = loss
    np.testing.assert_array_equal(np.array(seen[0]), make_batch(2).ids)
    assert int(seen[0].max()) < V


def distilled(**settings):
    """Loss for each sentence and metrics of a batch whose last sentence is padding."""
    own = DistillationConfig(**({"cosine": 0.0, "mse": 1e-30} | settings))
    config = make_config(objectives=objectives(distillation=own), share="none")
    stepper = make_stepper(config)
    batch = make_batch(1)
    batch.mask[-1] = 0.0
    micro = on_device(batch)
    outcome = stepper.objectives[0].loss(stepper.model, micro, KEY)
    y = stepper.model.encode(micro.ids, micro.mask)
    return outcome, y, micro.target, mx.max(micro.mask, axis=1)


def test_similarity_adds_its_weight_and_leaves_padding_out():
    outcome, y, t, real = distilled(similarity_weight=3.0)
    assert real.tolist()[-1] == 0.0
    term = similarity_mse(y, t, real).sum().item()
    assert outcome.loss.item() == pytest.approx(3 * term, rel=1e-4)
    assert outcome.metrics["similarity_loss"].item() == pytest.approx(term, rel=1e-4)


def test_similarity_by_divergence_takes_its_temperature():
    settings = {"similarity_kind": "kl", "similarity_temperature": 0.3}
    outcome, y, t, real = distilled(similarity_weight=2.0, **settings)
    term = similarity_kl(y, t, real, 0.3).sum().item()
    assert outcome.loss.item() == pytest.approx(2 * term, rel=1e-4)


def test_shortened_vectors_are_compared_with_the_teachers_whole_ones():
    outcome, y, t, real = distilled(matryoshka=[3, 8], matryoshka_weights=[2.0, 0.5])
    three, eight = (similarity_mse(y[:, :d], t, real).sum().item() for d in (3, 8))
    assert outcome.loss.item() == pytest.approx(2 * three + 0.5 * eight, rel=1e-4)
    assert outcome.metrics["similarity_3_loss"].item() == pytest.approx(three, rel=1e-4)
    assert outcome.metrics["similarity_8_loss"].item() == pytest.approx(eight, rel=1e-4)


def test_the_terms_of_similarity_are_off_by_default():
    assert distilled()[0].metrics.keys() == {"cosine", "mse"}
