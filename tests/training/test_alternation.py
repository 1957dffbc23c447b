"""Which objective an update trains."""

import pytest

from energyflow_mlx.training.alternation import Alternation


def order(shares, seed, steps):
    alternation = Alternation(shares, seed)
    return [alternation.objective_of(step) for step in range(steps)]


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.7])
@pytest.mark.parametrize("seed", [0, 1, 42])
def test_two_objectives_hold_their_shares_in_every_stretch(share, seed):
    names = order({"a": share, "b": 1 - share}, seed, 400)
    for start in range(0, 400, 40):
        found = names[start : start + 40].count("a") / 40
        assert abs(found - share) <= 1 / 40 + 1e-9
    counts = Alternation({"a": share, "b": 1 - share}, seed).counts(400)
    assert counts == {"a": names.count("a"), "b": names.count("b")}


@pytest.mark.parametrize("seed", [0, 1, 42])
def test_four_objectives_hold_their_relative_shares(seed):
    shares = {"a": 3, "b": 1, "c": 2, "d": 4}
    names = order(shares, seed, 500)
    for start in range(0, 500, 50):
        stretch = names[start : start + 50]
        for name, share in shares.items():
            assert abs(stretch.count(name) - 5 * share) <= 2, (start, name)


def test_one_objective_has_every_update():
    assert set(order({"only": 0.3}, 5, 50)) == {"only"}


def test_objective_is_a_pure_function_of_the_step():
    forward = order({"a": 0.4, "b": 0.6}, 7, 100)
    alternation = Alternation({"a": 0.4, "b": 0.6}, 7)
    backward = [alternation.objective_of(step) for step in reversed(range(100))]
    assert forward == backward[::-1]
    assert alternation.counts(37) == {
        name: forward[:37].count(name) for name in ("a", "b")
    }


def test_seed_moves_the_phase():
    starts = {tuple(order({"a": 0.25, "b": 0.75}, seed, 12)) for seed in range(12)}
    assert len(starts) > 1
