import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.config.lattice import LatticeConfig, NoiseConfig
from energyflow_mlx.lattice.motion import (
    StepControls,
    displacement_scale,
    exploration_sigma,
    move_flows,
)
from energyflow_mlx.lattice.state import launch


def flows_at(config, position, face, *, first):
    """Flows on their first step, or on a later one."""
    position = mx.array(position, dtype=mx.float32).reshape(1, -1, 3)
    shape = position.shape[:2]
    start = launch(config, mx.zeros((1, config.cube.height, config.cube.width)))
    return start._replace(
        position=position,
        face=mx.broadcast_to(mx.array(face, dtype=mx.float32), shape),
        age=mx.full(shape, 0.0 if first else 1.0),
        settled=mx.zeros(shape, dtype=mx.bool_),
    )


def move(config, position, output, *, face=1.0, first=True, left=3, **rest):
    state = flows_at(config, position, face, first=first)
    output = mx.array(output, dtype=mx.float32).reshape(1, -1, 3)
    controls = StepControls(1 / left, rest.get("scale", 1.0), rest.get("noise"))
    return move_flows(config, state, output, controls)


def test_drift_alone_arrives_exactly_with_the_last_step(small_config):
    config = small_config(cube={"depth": 6})
    z = mx.array([[[0.3, 0.2, 0.0], [0.3, 0.2, 0.0]]])
    for left in (3, 2, 1):
        step = move(
            config, z, mx.zeros((2, 3)), face=[1.0, -1.0], first=left == 3, left=left
        )
        assert (step.reached != 0).all().item() == (left == 1)
        z = step.position
    assert step.reached.tolist() == [[1.0, -1.0]]
    np.testing.assert_allclose(step.position[0, :, :2], [[0.3, 0.2]] * 2, atol=1e-6)


def test_drift_catches_up_from_anywhere_in_the_steps_left(small_config):
    step = move(small_config(), [0, 0, -0.9], [0, 0, 0], left=1)
    assert step.position[0, 0, 2].item() == 1.0
    assert step.reached.item() == 1.0


def test_z_output_chooses_the_face_on_the_first_step_only(small_config):
    config = small_config()
    assert move(config, [0, 0, 0], [0, 0, -2.0]).face.item() == -1.0
    assert move(config, [0, 0, 0], [0, 0, -2.0], first=False).face.item() == 1.0
    assert move(config, [0, 0, 0], [0, 0, 2.0], face=-1.0).face.item() == 1.0


def test_z_output_too_small_to_be_clear_leaves_the_face_of_the_cell(small_config):
    for z in (-0.05, 0.0, 0.05):
        for face in (1.0, -1.0):
            step = move(small_config(), [0, 0, 0], [0, 0, z], face=face)
            assert step.face.item() == face
    always = small_config(motion={"face_tie": 0.0})
    assert move(always, [0, 0, 0], [0, 0, -1e-4]).face.item() == -1.0


def test_z_output_hurries_a_flow_but_never_holds_it_back(small_config):
    config = small_config(motion={"bound": 0.2})
    drift = 1 / 3
    hurried = move(config, [0, 0, 0], [0, 0, 9.0], first=False)
    held = move(config, [0, 0, 0], [0, 0, -9.0], first=False)
    assert hurried.position[0, 0, 2].item() == pytest.approx(drift + 0.2)
    assert held.position[0, 0, 2].item() == pytest.approx(drift)


def test_gradient_reaches_a_z_output_of_exactly_zero(small_config):
    config = small_config()

    def z_of(output):
        return move(config, [0, 0, 0], output).position[..., 2].sum()

    assert mx.grad(z_of)(mx.zeros((3,)))[2].item() == pytest.approx(0.3)


@pytest.mark.parametrize("bound", [0.1, 0.5])
def test_learned_move_is_bounded_and_smooth_everywhere(small_config, bound):
    """The reference clips, which leaves no gradient beyond the bound."""
    config = small_config(motion={"bound": bound, "z_drift": False})
    step = move(config, [0, 0, 0], [50.0, -50.0, 50.0])
    np.testing.assert_allclose(step.position[0, 0], [bound, -bound, bound], rtol=1e-6)

    def x_of(output):
        return move(config, [0, 0, 0], output).position[..., 0].sum()

    assert mx.grad(x_of)(mx.array([3.0, 0.0, 0.0]))[0].item() > 0


def test_scale_multiplies_the_output(small_config):
    config = small_config(motion={"z_drift": False})
    one = move(config, [0, 0, 0], [0.2, 0, 0], scale=2.0).position[0, 0, 0].item()
    assert one == pytest.approx(0.3 * np.tanh(0.4))


def test_flow_that_crosses_a_side_comes_back_folded(small_config):
    """The reference's clipped position overwrites the folded one."""
    config = small_config(motion={"bound": 0.5, "z_drift": False})
    step = move(config, [0.8, -0.9, 0], [50.0, -50.0, 0])
    np.testing.assert_allclose(step.position[0, 0], [0.7, -0.6, 0], atol=1e-6)
    assert step.reached.item() == 0.0


def test_flow_stops_at_the_side_when_reflection_is_off(small_config):
    config = small_config(motion={"bound": 0.5, "z_drift": False, "reflect": False})
    step = move(config, [0.8, -0.9, 0], [50.0, -50.0, 0])
    np.testing.assert_allclose(step.position[0, 0], [1.0, -1.0, 0], atol=1e-6)


def test_flow_that_crosses_a_side_and_a_face_lands_folded_on_the_face(small_config):
    """The reference moves such a flow again after it has completed."""
    config = small_config(motion={"bound": 0.5})
    step = move(config, [0.8, 0, 0.9], [50.0, 0, 50.0], left=2)
    np.testing.assert_allclose(step.position[0, 0], [0.7, 0, 1.0], atol=1e-6)
    assert step.reached.item() == 1.0


def test_far_only_lattice_sends_every_flow_to_the_far_face(small_config):
    config = small_config(cube={"output_planes": "far"})
    step = move(config, [0, 0, 0], [0, 0, -9.0], face=-1.0)
    assert step.face.item() == 1.0
    assert step.position[0, 0, 2].item() > 0


def test_closed_near_face_reflects_a_free_flow(small_config):
    config = small_config(
        cube={"output_planes": "far"}, motion={"z_drift": False, "bound": 0.5}
    )
    step = move(config, [0, 0, -0.8], [0, 0, -50.0])
    assert step.position[0, 0, 2].item() == pytest.approx(-0.7)
    assert step.reached.item() == 0.0


def test_noise_is_part_of_the_raw_move_and_folds_with_it(small_config):
    """The reference adds its noise after the clamp, and clamps twice."""
    config = small_config()
    noise = mx.array([[[0.4, 0.0, 0.9]]])
    step = move(config, [0.9, 0, 0], [0, 0, 0], noise=noise)
    assert step.position[0, 0, 0].item() == pytest.approx(0.7)


def test_noise_acts_on_z_only_when_asked(small_config):
    """The reference's noise acts on z although its comment says otherwise."""
    noise = mx.array([[[0.0, 0.0, 0.25]]])
    quiet = move(small_config(), [0, 0, 0], [0, 0, 0], noise=noise)
    loud = move(small_config(noise={"on_z": True}), [0, 0, 0], [0, 0, 0], noise=noise)
    assert quiet.position[0, 0, 2].item() == pytest.approx(1 / 3)
    assert loud.position[0, 0, 2].item() == pytest.approx(1 / 3 + 0.25)


def test_frozen_displacement_gets_no_gradient(small_config):
    config = small_config(motion={"freeze": True})

    def total(output):
        return move(config, [0, 0, 0], output).position.sum()

    assert mx.abs(mx.grad(total)(mx.ones((3,)))).max().item() == 0.0


def test_displacement_scale_decays_in_intervals_after_the_warmup():
    """The reference's schedule is constant with its own defaults."""
    config = LatticeConfig()
    assert config.motion.scale > config.motion.scale_min
    assert displacement_scale(config, 0) == 2.0
    assert displacement_scale(config, 99) == 2.0
    assert displacement_scale(config, 100) == 2.0
    assert displacement_scale(config, 109) == 2.0
    assert displacement_scale(config, 110) == pytest.approx(1.8)
    assert displacement_scale(config, 120) == pytest.approx(1.62)
    assert displacement_scale(config, 10_000) == 1.0


def test_exploration_noise_falls_linearly_to_zero():
    config = LatticeConfig(noise=NoiseConfig(sigma=0.1, steps=200))
    sigmas = [exploration_sigma(config, step) for step in (0, 50, 200, 10_000)]
    assert sigmas == pytest.approx([0.1, 0.075, 0.0, 0.0])


def test_exploration_noise_stays_constant_without_an_end():
    config = LatticeConfig(noise=NoiseConfig(sigma=0.1, steps=0))
    assert exploration_sigma(config, 10_000) == 0.1


def slope_of_landing(config, output):
    """Gradient of where flows of opposite faces end, by their first outputs."""
    state = flows_at(config, [[0, 0, 0.1]] * 2, [1.0, -1.0], first=True)

    def ends(output):
        step = move_flows(config, state, output, StepControls(1.0, 1.0, None))
        return step.position[..., 2].sum()

    return mx.grad(ends)(mx.array(output).reshape(1, 2, 3))[0, :, 2].tolist()


@pytest.mark.parametrize("z", [0.0, 0.05, 0.5], ids=["start", "too short", "chosen"])
def test_the_choice_of_face_has_the_gradient_of_the_z_output(small_config, z):
    """Exactly that of the output times the way to the face, both where it has none."""
    config = small_config(readout={"faces": "separate"}, cube={"depth": 2})
    slopes = slope_of_landing(config, [[0, 0, z]] * 2)
    inner = 1 - np.tanh(z) ** 2
    faces = [1.0, 1.0] if z > 0.1 else [1.0, -1.0]
    for slope, face in zip(slopes, faces, strict=True):
        way = abs(face - 0.1)
        hurry = max(0.0, face * 0.3 * np.tanh(z))
        own = 0.3 * inner if face * z >= 0 else 0.0  # of the output as a move
        assert slope == pytest.approx((way + hurry) * inner + own, rel=1e-4)


def test_merged_faces_leave_the_choice_without_a_gradient(small_config):
    assert slope_of_landing(small_config(), [[0, 0, 0.5]] * 2) == [0.0, 0.0]


def test_frozen_moves_choose_no_face(small_config):
    config = small_config(readout={"faces": "separate"}, motion={"freeze": True})
    assert slope_of_landing(config, [[0, 0, 0.5]] * 2) == [0.0, 0.0]


@pytest.mark.parametrize("seed", range(3))
def test_separate_faces_move_flows_exactly_as_merged_ones(small_config, seed):
    """Only the gradient differs: faces stay exactly -1 and +1."""
    rng = np.random.default_rng(seed)
    position, output = rng.uniform(-1, 1, (2, 9, 3))
    steps = [
        move(small_config(readout={"faces": faces}), position, 2 * output, left=2)
        for faces in ("merged", "separate")
    ]
    for one, other in zip(*steps, strict=True):
        assert mx.array_equal(one, other)


def test_a_settled_flow_keeps_its_face(small_config):
    config = small_config(readout={"faces": "separate"})
    state = flows_at(config, [[0, 0, 0]], 1.0, first=True)
    settled = state._replace(settled=mx.full((1, 1), True))
    output, controls = mx.array([[[0.0, 0.0, -2.0]]]), StepControls(1 / 3, 1.0, None)
    assert move_flows(config, state, output, controls).face.item() == -1.0
    assert move_flows(config, settled, output, controls).face.item() == 1.0
