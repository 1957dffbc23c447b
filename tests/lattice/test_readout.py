import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.lattice.geometry import cell_index
from energyflow_mlx.lattice.readout import (
    count_arrivals,
    count_meetings,
    describe_flows,
    read_faces,
    score_flows,
    weigh_births,
)
from energyflow_mlx.lattice.state import land, launch


def scattered(config, batch=2, seed=0):
    """Landed flows at random places with random energies, ages and gaps."""
    rng = np.random.default_rng(seed)
    state = launch(config, mx.zeros((batch, config.cube.height, config.cube.width)))
    shape = (batch, config.slots)
    position = rng.uniform(-1, 1, (*shape, 3))
    position[..., 2] = np.sign(position[..., 2])
    return state._replace(
        position=mx.array(position.astype(np.float32)),
        energy=mx.array(rng.normal(size=shape).astype(np.float32)),
        age=mx.array(rng.integers(0, 5, shape).astype(np.float32)),
        gap=mx.array(rng.uniform(0, 1, shape).astype(np.float32)),
        alive=mx.zeros(shape, dtype=mx.bool_),
    )


def slow_softmax_surface(config, state):
    """Section by section what the reference means to compute, in a dictionary."""
    e, gap, age = (np.array(a) for a in (state.energy, state.gap, state.age))
    cell = np.array(cell_index(state.position, config.cube.width, config.cube.height))
    groups = {}
    for b, f in zip(*np.nonzero(np.array(state.exists)), strict=True):
        q = abs(e[b, f]) / (1 + gap[b, f]) * (1 + 0.1 * age[b, f])
        groups.setdefault((b, cell[b, f]), []).append((q, e[b, f]))
    surface = np.zeros((len(e), config.surface_size))
    for key, members in groups.items():
        q, energy = np.array(members).T
        w = np.exp(q - q.max())
        surface[key] = (w * energy).sum() / (w.sum() + 1e-12)
    return surface.reshape(-1, config.cube.height, config.cube.width)


@pytest.mark.parametrize("spare", [0, 3], ids=["no spare slots", "spare slots"])
def test_nearest_surface_equals_the_slow_dictionary(small_config, spare):
    nearest, spawn = {"scatter": "nearest"}, {"per_cell": spare / 20}
    config = small_config(readout=nearest, spawn=spawn)
    state = scattered(config)
    expected = slow_softmax_surface(config, state)
    np.testing.assert_allclose(read_faces(config, state)[0], expected, atol=1e-6)


def test_importance_is_one_normalized_formula(small_config):
    """The reference mixes units, squares a weight and never calls it."""
    config = small_config(readout={"weighting": "importance"}, spawn={"per_cell": 0})
    state = scattered(config)
    age, gap = np.array(state.age), np.array(state.gap)
    weight = 0.7 * 0.5 / np.maximum(gap, 0.5) + 0.3 * age / config.total_steps
    np.testing.assert_allclose(np.exp(score_flows(config, state)), weight, rtol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [{"proximity_weight": 0.1}, {"path_length_weight": 3.0}],
)
def test_importance_weights_have_an_effect(small_config, changes):
    base = small_config(readout={"weighting": "importance"})
    state = scattered(base)
    other = small_config(readout={"weighting": "importance"} | changes)
    assert not mx.allclose(read_faces(base, state)[0], read_faces(other, state)[0])


@pytest.mark.parametrize("scatter", ["nearest", "bilinear"])
def test_flows_on_cell_centres_hand_over_their_energy(small_config, scatter):
    config = small_config(readout={"scatter": scatter})
    surface = mx.random.normal((2, 4, 5))
    state = land(config, launch(config, surface))
    assert mx.allclose(read_faces(config, state)[0], surface, atol=1e-5)


def test_slots_never_used_leave_no_trace(small_config):
    config = small_config(spawn={"per_cell": 0.2})
    state = scattered(config)
    moved = state.energy * state.exists + 99.0 * mx.logical_not(state.exists)
    other = state._replace(energy=moved)
    assert mx.array_equal(read_faces(config, state)[0], read_faces(config, other)[0])


def test_bilinear_surface_has_a_gradient_in_the_positions_and_nearest_has_none(
    small_config,
):
    def slope(scatter):
        config = small_config(readout={"scatter": scatter})
        state = scattered(config)

        def total(position):
            surface = read_faces(config, state._replace(position=position))[0]
            return (surface**2).sum()

        return mx.abs(mx.grad(total)(state.position)[..., :2]).max().item()

    assert slope("bilinear") > 0
    assert slope("nearest") == 0.0


def test_arrivals_count_every_flow_on_the_face_it_is_on(small_config):
    config = small_config(spawn={"per_cell": 0.1})
    state = scattered(config)
    near, far = (count_arrivals(config, state, face) for face in (-1.0, 1.0))
    assert near.shape == (2, 4, 5)
    assert (near + far).sum(axis=(1, 2)).tolist() == [20.0, 20.0]
    on_far = mx.logical_and(state.exists, state.position[..., 2] > 0)
    assert far.sum().item() == on_far.sum().item()


@pytest.mark.parametrize(
    ("x", "column"), [(-1, 0), (1, 4), (0, 2), (0.24, 2), (0.26, 3), (1.01, 4)]
)
def test_arrivals_are_counted_on_the_nearest_cell(small_config, x, column):
    config = small_config()
    state = land(config, launch(config, mx.zeros((1, 4, 5))))
    place = mx.broadcast_to(mx.array([x, 1.0, 1.0]), state.position.shape)
    count = count_arrivals(config, state._replace(position=place), 1.0)
    assert count[0, 3, column].item() == count.sum().item() == 20.0


def test_statistics_are_those_of_the_flows(small_config):
    """The reference reports a count that always equals the batch size."""
    config = small_config(spawn={"per_cell": 0.1})
    state = launch(config, mx.ones((1, 4, 5)))
    reached = mx.array([[-1.0] * 4 + [1.0] * 6 + [0.0] * 12])
    state = land(config, state._replace(reached=reached, age=state.age + 3))
    surface = mx.concatenate([mx.zeros((1, 1, 5)), mx.ones((1, 3, 5))], axis=1)
    found = {
        name: value.item()
        for name, value in describe_flows(config, state, surface).items()
    }
    assert found == pytest.approx(
        {
            "reached_near": 0.2,
            "reached_far": 0.3,
            "reached": 0.5,
            "projected": 0.5,
            "completed": 1.0,
            "created": 20.0,
            "spawned": 0.0,
            "born": 0.0,
            "covered": 0.75,
            "steps": 3.0,
            "path": 0.0,
            "sideways": 0.0,
            "path_cells": 0.0,
            "sideways_cells": 0.0,
            "child_cells": 0.0,
            "face_entropy": 0.0,  # all are projected to the near face
            "face_choice": 0.0,
        },
        abs=1e-5,
    )


def test_separate_faces_add_up_to_the_merged_surface(small_config):
    apart = small_config(readout={"faces": "separate"})
    state = scattered(apart)
    near, far = read_faces(apart, state)
    (merged,) = read_faces(small_config(), state)
    assert not mx.allclose(near, 0 * near)
    assert not mx.allclose(far, 0 * far)
    assert mx.allclose(near + far, merged, atol=1e-6)


def test_a_flow_shows_on_the_face_it_is_on_and_nowhere_else(small_config):
    config = small_config(readout={"faces": "separate"})
    state = land(config, launch(config, mx.random.normal((2, 4, 5))))
    (merged,) = read_faces(small_config(), state)
    for z, shown in ((-1.0, 0), (1.0, 1)):
        place = mx.concatenate(
            [state.position[..., :2], mx.full((2, 20, 1), z)], axis=-1
        )
        faces = read_faces(config, state._replace(position=place))
        assert mx.allclose(faces[shown], merged, atol=1e-6)
        assert mx.array_equal(faces[1 - shown], mx.zeros((2, 4, 5)))


@pytest.mark.parametrize(
    ("far", "split", "choice"),
    [
        ([[1.0] * 20, [1.0] * 20], 0.0, 0.0),
        ([[1.0] * 10 + [-1.0] * 10] * 2, 1.0, 0.0),
        ([[1.0] * 20, [-1.0] * 20], 1.0, 1.0),
    ],
    ids=["one face", "by the cell", "by the sample"],
)
def test_entropies_tell_a_fixed_face_from_a_chosen_one(
    small_config, far, split, choice
):
    config = small_config()
    state = land(config, launch(config, mx.ones((2, 4, 5))))
    z = mx.array(far)[..., None]
    place = mx.concatenate([state.position[..., :2], z], axis=-1)
    state = state._replace(position=place)
    found = describe_flows(config, state, mx.ones((2, 4, 5)))
    assert found["face_entropy"].item() == pytest.approx(split, abs=1e-4)
    assert found["face_choice"].item() == pytest.approx(choice, abs=1e-4)


def test_lengths_in_cells_count_cells_along_x(small_config):
    config = small_config(spawn={"per_cell": 0.1})
    state = launch(config, mx.ones((1, 4, 5)))
    child = mx.arange(22)[None] == 20
    state = land(config, state._replace(exists=mx.logical_or(state.exists, child)))
    step = mx.array([0.5, 0.0, 0.0])  # one cell of five
    state = state._replace(
        position=state.position + step, path=mx.full((1, 22), 1.0) * state.exists
    )
    found = describe_flows(config, state, mx.ones((1, 4, 5)))
    assert found["sideways_cells"].item() == pytest.approx(1.0)
    assert found["child_cells"].item() == pytest.approx(1.0)
    assert found["path_cells"].item() == pytest.approx(2.0)
    assert found["born"].item() == pytest.approx(0.5)


def test_signed_faces_count_the_far_face_for_and_the_near_one_against(small_config):
    config = small_config(readout={"faces": "signed"})
    state = land(config, launch(config, mx.random.normal((2, 4, 5))))
    (size,) = read_faces(small_config(), state._replace(energy=mx.abs(state.energy)))
    for z in (-1.0, 1.0):
        place = mx.concatenate(
            [state.position[..., :2], mx.full((2, 20, 1), z)], axis=-1
        )
        (surface,) = read_faces(config, state._replace(position=place))
        assert mx.allclose(surface, z * size, atol=1e-6)


@pytest.mark.parametrize("faces", ["separate", "signed"])
def test_the_face_has_a_gradient_where_faces_are_told_apart(small_config, faces):
    config = small_config(readout={"faces": faces})
    state = scattered(config)

    def total(position):
        surfaces = read_faces(config, state._replace(position=position))
        return sum(mx.square(s - 0.3).sum() for s in surfaces)

    slope = mx.grad(total)(state.position)[..., 2]
    assert (mx.abs(slope) > 0).sum().item() > 0.9 * slope.size


def weighed(small_config, weight):
    """A child of this weight beside a launched flow, and one alone, and the config."""
    config = small_config(
        spawn={"rule": "learned", "per_cell": 0.1}, readout={"scatter": "nearest"}
    )
    state = land(config, launch(config, mx.ones((1, 4, 5))))
    is_child = mx.arange(22)[None] >= 20
    alone = mx.arange(22)[None] == 3  # its own flow is somewhere else
    place = mx.where(alone[..., None], state.position[:, 4:5], state.position)
    place[0, 20], place[0, 21] = state.position[0, 0], state.position[0, 3]
    return config, state._replace(
        exists=mx.full((1, 22), True),
        energy=mx.where(is_child, 3.0, 1.0),
        position=place,
        weight=mx.where(is_child, weight, 1.0),
    )


def test_a_child_counts_by_its_weight_and_one_of_no_weight_not_at_all(small_config):
    values = []
    for weight in (1e-6, 0.5, 1.0):
        config, state = weighed(small_config, weight)
        (surface,) = read_faces(config, state)
        values.append((surface[0, 0, 0].item(), surface[0, 0, 3].item()))
    beside, alone = zip(*values, strict=True)
    assert beside[0] == pytest.approx(1.0, abs=1e-4)
    assert beside[0] < beside[1] < beside[2] < 3.0
    assert alone == pytest.approx((0.0, 1.5, 3.0), abs=1e-4)


def test_what_births_cost_is_their_weight_over_the_slots(small_config):
    config, state = weighed(small_config, 0.25)
    assert weigh_births(config, state).item() == pytest.approx(0.25)
    childless = state._replace(exists=mx.arange(22)[None] < 21)
    assert weigh_births(config, childless).item() == pytest.approx(0.125)
    slope = mx.grad(lambda w: weigh_births(config, state._replace(weight=w)))
    assert slope(state.weight)[0, 20:].tolist() == pytest.approx([0.5, 0.5])


def test_meetings_are_steps_in_which_travelling_flows_share_a_cell(small_config):
    config = small_config()
    start = launch(config, mx.ones((2, 4, 5)))
    assert count_meetings(config, [start]).item() == 0.0
    two = mx.arange(20)[None] < 2  # of a sample's twenty flows in one place
    place = mx.where(two[..., None], mx.array([0.0, 0.0, 0.8]), start.position)
    met = start._replace(position=place)
    assert count_meetings(config, [start, met, met]).item() == pytest.approx(0.2)
    arrived = met._replace(alive=mx.broadcast_to(mx.arange(20) != 0, (2, 20)))
    assert count_meetings(config, [met, arrived]).item() == pytest.approx(0.1)
