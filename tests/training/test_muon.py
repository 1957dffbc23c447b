"""Muon: its step, which parameters it steps, and what a run keeps of it."""

import mlx.core as mx
import mlx.optimizers
import numpy as np
import pytest

from energyflow_mlx.config import OptimizerConfig
from energyflow_mlx.errors import InputError
from energyflow_mlx.ops.adamw import Rates
from energyflow_mlx.training.muon import Muon, muon, orthogonal
from energyflow_mlx.training.optimizer import group_of
from energyflow_mlx.training.state import TrainState
from tests.training.small import make_batch, make_config, make_stepper, step, weights

A, B = "distillation", "reconstruction"
ON = {"optimizer.kind": "muon"}
MUON = OptimizerConfig(kind="muon")
HEAD = "encoder.head.weight"


def rates(lr=0.1, moves=True, factor=1.0):
    return Rates(mx.array(factor), mx.array(lr), mx.array(moves))


def fresh(p):
    return Muon(p, mx.zeros(p.shape), mx.zeros(()))


@pytest.mark.parametrize("shape", [(2, 12, 30), (3, 30, 12), (1, 20, 20)])
def test_the_singular_values_of_an_orthogonal_matrix_are_near_1(shape):
    mx.random.seed(1)
    found = np.array(orthogonal(mx.random.normal(shape)))
    singular = np.linalg.svd(found, compute_uv=False)
    assert singular.min() > 0.6 and singular.max() < 1.25


def test_an_orthogonal_matrix_keeps_the_singular_vectors():
    mx.random.seed(2)
    start = mx.random.normal((1, 8, 14))
    u, _, vt = np.linalg.svd(np.array(start[0]), full_matrices=False)
    inner = u.T @ np.array(orthogonal(start)[0]) @ vt.T
    assert np.abs(inner - np.diag(np.diag(inner))).max() < 1e-3


def test_nothing_is_made_of_a_gradient_of_zeros():
    assert mx.all(orthogonal(mx.zeros((2, 3, 4))) == 0).item()


@pytest.mark.parametrize("shape", [(6, 10), (10, 6)])
def test_steps_go_where_the_librarys_muon_goes(shape):
    """Its factor is sqrt(max(1, R / C)), and it does not scale by 0.2."""
    mx.random.seed(0)
    start = mx.random.normal(shape)
    library = mlx.optimizers.Muon(learning_rate=0.01, weight_decay=0.0)
    theirs, own = {"w": start}, fresh(start[None])
    for _ in range(4):
        gradient, before = mx.random.normal(shape), (theirs["w"], own.p[0])
        theirs = library.apply_gradients({"w": gradient}, theirs)
        own = muon(own, gradient[None], rates(0.01), 0.95, 0.0)
        scale = 0.2 * max(shape) ** 0.5 / max(1.0, shape[0] / shape[1]) ** 0.5
        wanted = scale * np.array(theirs["w"] - before[0])
        np.testing.assert_allclose(own.p[0] - before[1], wanted, atol=2e-5)


def test_a_step_is_as_long_as_one_of_adamw():
    """Near 0.2 of the learning rate for each number, whatever the gradient's size."""
    mx.random.seed(0)
    for size in (1e-4, 1e3):
        gradient = size * mx.random.normal((1, 40, 60))
        moved = muon(fresh(mx.zeros((1, 40, 60))), gradient, rates(0.01), 0.95, 0.0)
        each = np.sqrt(np.mean(np.square(np.array(moved.p))))
        assert 0.15 < each / 0.01 < 0.25


def test_stacked_matrices_are_stepped_as_each_alone():
    mx.random.seed(3)
    p, g = mx.random.normal((3, 5, 9)), mx.random.normal((3, 5, 9))
    whole = muon(fresh(p), g, rates(), 0.9, 0.1)
    for i in range(3):
        one = muon(fresh(p[i : i + 1]), g[i : i + 1], rates(), 0.9, 0.1)
        np.testing.assert_allclose(whole.p[i], one.p[0], atol=1e-5)
        np.testing.assert_allclose(whole.m[i], one.m[0], atol=1e-6)


def test_decay_is_decoupled_from_the_momentum():
    state = fresh(mx.ones((1, 3, 3)))
    found = muon(state, mx.zeros((1, 3, 3)), rates(0.1), 0.9, 0.5)
    np.testing.assert_allclose(found.p, np.full((1, 3, 3), 0.95), rtol=1e-6)
    assert mx.all(found.m == 0).item()


def test_an_update_that_is_not_finite_changes_nothing():
    mx.random.seed(4)
    gradient = mx.random.normal((1, 3, 5))
    state = muon(fresh(mx.ones((1, 3, 5))), gradient, rates(), 0.9, 0.1)
    bad = rates(moves=False, factor=float("nan"))
    found = muon(state, mx.full((1, 3, 5), float("nan")), bad, 0.9, 0.1)
    for new, old in zip(found, state, strict=True):
        np.testing.assert_array_equal(new, old)


@pytest.mark.parametrize(
    ("path", "shape", "is_stepped"),
    [
        ("encoder.blocks.0.conv1.weight", (24, 3, 16), True),
        ("shared.0.conv2.weight", (16, 24), True),
        ("decoder.films.0.projection.weight", (32, 12), True),
        ("decoder.corrector.condition.weight", (16, 16), True),
        (HEAD, (12, 16), True),
        ("encoder.head.bias", (12,), False),
        ("encoder.pool.gate.weight", (1, 16), False),
        ("encoder.embedding.weight", (50, 16), False),
        ("encoder.positions", (512, 16), False),
        ("decoder.output.weight", (50, 16), False),
        ("lattice.flow.carrier.weight", (16, 16), False),
    ],
)
def test_muon_steps_the_matrices_inside_the_text_networks(path, shape, is_stepped):
    assert (group_of(path, shape, MUON) is not None) is is_stepped
    assert group_of(path, shape, OptimizerConfig()) is None


def test_a_run_with_muon_keeps_one_moment_of_those_and_two_of_the_others():
    stepper = make_stepper(make_config(ON))
    kinds = {p: sorted(m) for p, m in stepper.state.moments.items()}
    assert kinds[HEAD] == ["m", "t"]
    assert kinds["encoder.head.bias"] == ["m", "t", "v"]
    assert kinds["decoder.output.weight"] == ["m", "t", "v"]


@pytest.mark.parametrize("objective", [A, B])
def test_the_loss_falls_and_the_steps_are_muons(objective):
    plain, stepper = make_stepper(), make_stepper(make_config(ON))
    batch, before = make_batch(1), weights(make_stepper())
    losses = [step(stepper, objective, batch)["loss"] for _ in range(5)]
    assert losses[-1] < losses[0]
    step(plain, objective, batch)
    stepper = make_stepper(make_config(ON))
    step(stepper, objective, batch)
    name = "shared.0.conv1.weight"
    for made, least in ((stepper, 0.6), (plain, 0.0)):
        moved = (weights(made)[name] - before[name]).reshape(24, -1)
        singular = np.linalg.svd(moved, compute_uv=False)
        assert least <= np.median(singular) / singular.max() < least + 0.4


def test_matrices_in_packs_are_stepped_as_alone(monkeypatch):
    """As on a GPU, where matrices of one shape lie in one vector."""
    changes = ON | {"encoder.dilations": [1, 2, 1], "decoder.dilations": [1, 2, 1]}
    alone = make_stepper(make_config(changes))
    monkeypatch.setattr("energyflow_mlx.training.update.on_gpu", lambda: True)
    packed = make_stepper(make_config(changes))
    names = [p.shapes for p in packed.packing.packs.values() if len(p.shapes) > 1]
    convolutions = {"encoder.blocks.0.conv1.weight", "encoder.blocks.1.conv1.weight"}
    assert convolutions in [set(shapes) for shapes in names]
    packed.restore(alone.state)
    for number, name in enumerate((A, B, A)):
        for stepper in (alone, packed):
            step(stepper, name, make_batch(number))
    one, two = weights(alone), weights(packed)
    for path in one:
        np.testing.assert_allclose(two[path], one[path], atol=1e-4, err_msg=path)


def test_a_restored_state_goes_on_with_the_same_bits():
    first = make_stepper(make_config(ON))
    step(first, A, make_batch(1))
    arrays = first.state.arrays()
    second = make_stepper(make_config(ON, seed=5))
    second.restore(TrainState.from_arrays(arrays))
    for stepper in (first, second):
        step(stepper, B, make_batch(2))
    one, two = first.state.arrays(), second.state.arrays()
    assert one.keys() == two.keys()
    assert all(mx.array_equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(
    ("keywords", "said"),
    [({"kind": "sgd"}, "optimizer.kind"), ({"momentum": 1.0}, "optimizer.momentum")],
)
def test_kind_and_momentum_are_checked(keywords, said):
    with pytest.raises(InputError, match=said):
        OptimizerConfig(**keywords)


def test_the_momentum_of_the_settings_is_muons():
    momenta = {}
    for momentum in (0.5, 0.9):
        stepper = make_stepper(make_config(ON | {"optimizer.momentum": momentum}))
        step(stepper, A, make_batch(1))
        momenta[momentum] = np.array(stepper.state.moments[HEAD]["m"])
    np.testing.assert_allclose(momenta[0.5] * 0.2, momenta[0.9], atol=1e-6)
