"""The lattice end to end: vector in, vector out."""

from functools import partial

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import pytest
from mlx.utils import tree_flatten

from energyflow_mlx.errors import InputError
from energyflow_mlx.lattice import EnergyLattice, FlowState
from energyflow_mlx.lattice.dynamics import FlowStep
from energyflow_mlx.readback.guard import HiddenReadGuard


def vectors(rows=3, seed=7):
    return mx.random.normal((rows, 6), key=mx.random.key(seed))


def gradients(lattice, *, key=None, sigma=0.0):
    def loss():
        out = lattice(vectors(), key=key, noise_sigma=sigma)
        return ((out.vector - vectors(seed=8)) ** 2).mean()

    return nn.value_and_grad(lattice, loss)()


def test_vectors_come_back_as_vectors_with_both_surfaces(small_lattice):
    lattice = small_lattice(spawn={"per_cell": 0.1})
    out = lattice(vectors())
    assert out.vector.shape == (3, 6)
    assert out.surface_in.shape == out.surface_out.shape == (3, 4, 5)
    assert out.flows.position.shape == (3, 22, 3)
    assert all(value.shape == () for value in out.statistics.values())


def test_equal_forwards_agree_bit_for_bit(small_lattice):
    """The reference aggregates flows of earlier batches again."""
    lattice = small_lattice(
        spawn={"per_cell": 0.15, "threshold": 0.05}, ends={"dropout": 0.2}
    )
    key, sigma = mx.random.key(3), mx.array(0.1)
    first = lattice(vectors(), key=key, noise_sigma=sigma)
    lattice(vectors(seed=1), key=key, noise_sigma=sigma)
    second = lattice(vectors(), key=key, noise_sigma=sigma)
    for (name, a), (_, b) in zip(
        tree_flatten(first._asdict()), tree_flatten(second._asdict()), strict=True
    ):
        assert mx.array_equal(a, b, equal_nan=True), name


def test_flow_state_is_made_of_arrays_and_the_lattice_keeps_none_of_them(
    small_lattice,
):
    """The reference has one Python object and one string per flow.

    There is one vectorized path, so no list path can differ from it.
    Nothing of one forward outlives it, so no graph is walked twice.
    """
    lattice = small_lattice()
    before = {name for name, _ in tree_flatten(lattice.parameters())}
    out = lattice(vectors())
    assert isinstance(out.flows, FlowState)
    leaves = [a for _, a in tree_flatten(out.flows._asdict())]
    assert all(isinstance(a, mx.array) and a.shape[:2] == (3, 20) for a in leaves)
    assert {name for name, _ in tree_flatten(lattice.parameters())} == before


@pytest.mark.parametrize("scatter", ["bilinear", "nearest"])
@pytest.mark.parametrize("weighting", ["softmax", "importance"])
def test_gradients_reach_every_part(small_lattice, scatter, weighting):
    """Mapper, memory, heads and collector all learn."""
    lattice = small_lattice(readout={"scatter": scatter, "weighting": weighting})
    _, grads = gradients(lattice)
    for name, grad in tree_flatten(grads):
        assert mx.isfinite(grad).all().item(), name
        assert mx.abs(grad).max().item() > 0, name


def test_displacement_head_learns_from_its_zero_start(small_config):
    mx.random.seed(0)
    _, grads = gradients(EnergyLattice(small_config(), 6))
    slope = grads["flow"]["carrier"]["move_out"]["weight"]
    assert (mx.abs(slope).max(axis=1) > 0).all().item()


def test_frozen_displacement_head_stays_where_it_was(small_lattice):
    _, grads = gradients(small_lattice(motion={"freeze": True}))
    for layer in ("move_in", "move_out"):
        for _, grad in tree_flatten(grads["flow"]["carrier"][layer]):
            assert mx.abs(grad).max().item() == 0.0


def make_update(lattice, optimizer):
    """One training step as the trainer runs it, and its state."""
    state = [lattice.state, optimizer.state]

    def loss(v, key, scale, sigma):
        out = lattice(v, key=key, displacement_scale=scale, noise_sigma=sigma)
        return ((out.vector - v) ** 2).mean(), out.statistics

    @partial(mx.compile, inputs=state, outputs=state)
    def update(*batch):
        (value, statistics), grads = nn.value_and_grad(lattice, loss)(*batch)
        optimizer.update(lattice, grads)
        return value, statistics

    return update, loss, state


# Each of these builds some 150 fused loops, half a second each the first time.
COMPILED = [
    pytest.param({"cube": {"steps": 2}, "carrier": {"layers": 1}}, id="plain"),
    pytest.param(
        {"spawn": {"per_cell": 0.1, "threshold": 0.1}, "ends": {"dropout": 0.1}},
        id="spawn and dropout",
        marks=pytest.mark.slow,
    ),
]


@pytest.mark.parametrize("changes", COMPILED)
def test_compiled_step_equals_the_eager_one_reads_nothing_and_learns(
    small_lattice, changes
):
    """The reference's second training step fails with a freed graph."""
    lattice = small_lattice(**changes)
    optimizer = optim.AdamW(1e-2, bias_correction=True)
    optimizer.init(lattice.trainable_parameters())
    update, loss, state = make_update(lattice, optimizer)
    batch = (vectors(16), mx.random.key(3), mx.array(1.5), mx.array(0.02))
    expected, _ = loss(*batch)
    guard, losses = HiddenReadGuard(), []
    for _ in range(12):
        guard.arm("training step")
        try:
            value, statistics = update(*batch)
        finally:
            guard.disarm()
        mx.eval(value, statistics, state)
        losses.append(value.item())
    assert losses[0] == pytest.approx(expected.item(), rel=1e-4)
    assert losses[-1] < 0.8 * losses[0]
    assert statistics["completed"].item() == 1.0


def test_too_many_flows_are_refused_before_any_layer_runs(small_lattice):
    """The reference cuts the batch's last samples off without a word."""
    lattice = small_lattice(cube={"max_active_flows": 40})

    def untouched(*_args, **_kwargs):
        raise AssertionError("the mapper ran")

    stack, lattice.mapper.stack = lattice.mapper.stack, untouched
    untouched.layers = stack.layers
    with pytest.raises(ValueError, match="max_active_flows = 40, got 3 x 20 = 60"):
        lattice(vectors())


def test_wrong_vector_is_refused(small_lattice):
    with pytest.raises(ValueError, match=r"must be \[B, 6\], got \[3, 5\]"):
        small_lattice()(mx.zeros((3, 5)))


def test_noise_needs_a_key_in_training_and_is_ignored_in_evaluation(small_lattice):
    """The reference adds its noise in evaluation too."""
    lattice = small_lattice()
    with pytest.raises(ValueError, match="key must be given in training with noise"):
        lattice(vectors(), noise_sigma=0.1)
    quiet = lattice(vectors()).vector
    noisy = lattice(vectors(), key=mx.random.key(0), noise_sigma=0.1).vector
    assert not mx.allclose(quiet, noisy)
    lattice.eval()
    same = lattice(vectors(), key=mx.random.key(0), noise_sigma=0.1).vector
    assert mx.array_equal(quiet, same)


def test_mapper_is_trained_saved_and_switched_with_the_rest(small_lattice):
    """The reference's mapper is in no optimiser, checkpoint or eval switch."""
    lattice = small_lattice(ends={"dropout": 0.5})
    names = {name for name, _ in tree_flatten(lattice.trainable_parameters())}
    assert {"mapper.scale", "mapper.offset", "mapper.table"} <= names
    lattice.eval()
    assert not lattice.mapper.training
    assert not lattice.mapper.stack.training


def test_ready_surface_enters_behind_the_mapper(small_lattice):
    lattice = small_lattice()
    surface = mx.random.normal((3, 4, 5))
    flat = lattice.from_surface(surface.reshape(3, 20))
    assert mx.array_equal(flat.surface_in, surface)
    assert mx.array_equal(flat.vector, lattice.from_surface(surface).vector)
    whole = lattice(vectors())
    again = lattice.from_surface(whole.surface_in)
    assert mx.array_equal(whole.vector, again.vector)
    with pytest.raises(ValueError, match="surface must be"):
        lattice.from_surface(mx.zeros((3, 21)))


def test_trace_keeps_the_whole_path_and_ends_as_a_call_does(small_lattice):
    lattice = small_lattice(spawn={"per_cell": 0.15, "threshold": 0.05})
    lattice.eval()
    paths, out = lattice.trace(vectors()), lattice(vectors())
    assert paths.position.shape == (4, 3, 23, 3)
    assert paths.energy.shape == paths.alive.shape == (4, 3, 23)
    assert mx.array_equal(paths.output.vector, out.vector)
    assert (paths.position[0, :, :20, 2] == 0).all().item()
    assert paths.alive[0].sum().item() == 60


def test_batch_rows_do_not_touch_each_other(small_lattice):
    """Nothing is inferred from the batch but its size."""
    lattice = small_lattice(spawn={"per_cell": 0.15, "threshold": 0.05})
    whole = lattice(vectors()).vector
    assert mx.allclose(whole[1:2], lattice(vectors()[1:2]).vector, atol=1e-5)


def test_learned_steps_are_not_the_optimizers_step_counter(small_lattice):
    lattice = small_lattice()
    optimizer = optim.AdamW(1e-3)
    optimizer.init(lattice.trainable_parameters())
    assert isinstance(lattice.flow, FlowStep)


@pytest.mark.parametrize(
    "changes",
    [
        {"motion": {"z_drift": False}},
        {"cube": {"output_planes": "far"}},
        {"carrier": {"energy_update": "replace"}},
    ],
    ids=["free", "one face", "replace"],
)
def test_every_created_flow_completes_under_every_option(small_lattice, changes):
    """Completed flows are counted, not assumed."""
    lattice = small_lattice(spawn={"per_cell": 0.15, "threshold": 0.05}, **changes)
    statistics = lattice(vectors()).statistics
    assert statistics["completed"].item() == 1.0
    assert statistics["created"].item() == 20 + statistics["spawned"].item()


def test_half_precision_weights_work_and_keep_positions_exact(small_lattice):
    lattice = small_lattice()
    exact = lattice(vectors())
    lattice.set_dtype(mx.bfloat16)
    out = lattice(vectors().astype(mx.bfloat16))
    assert out.flows.position.dtype == mx.float32
    assert out.flows.energy.dtype == mx.float32
    assert out.vector.dtype == mx.float32
    assert mx.abs(out.surface_in - exact.surface_in).max().item() < 0.1


@pytest.mark.parametrize("start", ["zero", "xavier"])
def test_displacement_start_says_whether_fresh_flows_stray(small_config, start):
    mx.random.seed(0)
    lattice = EnergyLattice(small_config(motion={"start": start}), 6)
    lattice.eval()
    strayed = lattice(mx.ones((2, 6))).statistics["sideways"].item()
    assert strayed == 0.0 if start == "zero" else strayed > 0.02


def learn_faces(lattice, vectors, updates):
    """Train the flows to hand the vectors through; share of them on the near face."""
    optimizer = optim.Adam(0.02)
    for _ in range(updates):

        def loss():
            return ((lattice(vectors).vector - vectors) ** 2).mean()

        _, gradient = nn.value_and_grad(lattice, loss)()
        optimizer.update(lattice, gradient)
        mx.eval(lattice.parameters(), optimizer.state)
    return lattice(vectors).statistics["reached_near"].item()


def test_flows_learn_the_face_that_is_read_rightly(small_lattice):
    """The far face of fixed ends speaks another language than the near one."""
    settings = {"ends": {"kind": "fixed"}, "readout": {"faces": "separate"}}
    lattice = small_lattice(**settings)
    head = lattice.flow.carrier.move_out
    head.weight, head.bias = mx.zeros(head.weight.shape), mx.zeros(head.bias.shape)
    vectors = mx.random.normal((8, 6))
    assert lattice(vectors).statistics["reached_near"].item() == 0.5
    assert learn_faces(lattice, vectors, 30) > 0.9


def test_far_only_output_is_refused_with_separate_faces(small_config):
    with pytest.raises(InputError, match="dual with lattice.readout.faces=separate"):
        small_config(cube={"output_planes": "far"}, readout={"faces": "separate"})


def test_the_score_of_parents_rises_where_children_are_needed(small_lattice):
    """Parents go straight to the near face; their children are read, or nowhere."""
    slopes = {}
    for far in (0.6, 0.0):
        lattice = small_lattice(
            ends={"kind": "divided", "near": 1.0, "far": far, "shift": 0},
            readout={"faces": "separate"},
            spawn={"rule": "learned", "per_cell": 1, "threshold": 0.1},
        )
        head, birth = lattice.flow.carrier.move_out, lattice.flow.birth
        head.weight, head.bias = mx.zeros_like(head.weight), mx.array([0.0, 0.0, -9.0])
        birth.weight = mx.zeros_like(birth.weight)
        vectors = mx.random.normal((8, 6), key=mx.random.key(1))
        lattice.eval()

        def closeness(bias, lattice=lattice, vectors=vectors):
            lattice.flow.birth.bias = bias
            found = lattice(vectors).vector
            lengths = mx.linalg.norm(found, axis=1) * mx.linalg.norm(vectors, axis=1)
            return ((found * vectors).sum(axis=1) / lengths).mean()

        slopes[far] = mx.grad(closeness)(mx.zeros((1,))).item()
    assert slopes[0.6] > 10 * abs(slopes[0.0])


@pytest.mark.parametrize(("lean", "far"), [(-0.5, 0.0), (0.0, 0.5), (0.5, 1.0)])
def test_untrained_flows_head_for_the_face_they_lean_to(small_config, lean, far):
    mx.random.seed(0)
    motion = {"start": "xavier", "lean": lean}
    lattice = EnergyLattice(small_config(motion=motion), 6)
    statistics = lattice(vectors()).statistics
    assert statistics["reached_far"].item() == far
