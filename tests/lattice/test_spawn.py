import mlx.core as mx

from energyflow_mlx.lattice.spawn import (
    assign_slots,
    choose_parents,
    count_children,
    inherit,
    place_children,
    plan_births,
    take_parents,
)


def exists(config, batch, children=0):
    used = config.surface_size + children
    return mx.broadcast_to(mx.arange(config.slots) < used, (batch, config.slots))


def test_children_follow_the_length_of_the_move(small_config):
    """The threshold is a normalised length, defined once."""
    config = small_config(spawn={"per_cell": 0.2, "threshold": 0.25, "max_per_step": 2})
    length = mx.array([[0.0, 0.25, 0.49, 0.5, 0.74, 0.75, 1.5]])
    every = mx.full(length.shape, True)
    assert count_children(config.spawn, length, every).tolist() == [
        [0, 0, 0, 1, 1, 2, 2]
    ]
    nobody = count_children(config.spawn, length, mx.logical_not(every))
    assert nobody.tolist() == [[0] * 7]


def test_slots_are_handed_out_in_order_until_none_is_left(small_config):
    config = small_config(spawn={"per_cell": 0.15, "max_per_step": 2})
    wanted = mx.zeros((2, config.slots), dtype=mx.int32)
    wanted[0, 4], wanted[0, 9], wanted[1, 2] = 2, 2, 1
    parents = assign_slots(config, wanted, exists(config, 2))
    assert parents.tolist() == [[4, 4, 9], [2, -1, -1]]


def test_slots_in_use_are_never_given_away_again(small_config):
    config = small_config(spawn={"per_cell": 0.15, "max_per_step": 2})
    wanted = mx.zeros((1, config.slots), dtype=mx.int32)
    wanted[0, 1] = 2
    assert assign_slots(config, wanted, exists(config, 1, 2)).tolist() == [[-1, -1, 1]]
    assert assign_slots(config, wanted, exists(config, 1, 3)).tolist() == [[-1] * 3]


def test_children_copy_the_row_of_their_parent_in_their_own_sample(small_config):
    config = small_config(spawn={"per_cell": 0.1})
    rows = mx.arange(2 * config.slots * 3).reshape(2, config.slots, 3)
    births = plan_births(config, mx.array([[5, -1], [-1, 0]]))
    filled = inherit(births, rows)
    cells = config.surface_size
    assert mx.array_equal(filled[:, :cells], rows[:, :cells])
    assert mx.array_equal(filled[0, cells], rows[0, 5])
    assert mx.array_equal(filled[0, cells + 1], rows[0, cells + 1])
    assert mx.array_equal(filled[1, cells], rows[1, cells])
    assert mx.array_equal(filled[1, cells + 1], rows[1, 0])
    assert births.is_new.sum(axis=1).tolist() == [1, 1]
    assert births.is_new[0, cells].item() and births.is_new[1, cells + 1].item()


def test_children_can_be_placed_from_another_array(small_config):
    config = small_config(spawn={"per_cell": 0.1})
    own = mx.zeros((1, config.slots))
    births = plan_births(config, mx.array([[-1, 3]]))
    other = mx.arange(config.slots, dtype=mx.float32)[None]
    filled = place_children(births, own, take_parents(births, other))
    assert filled[0, config.surface_size :].tolist() == [0.0, 3.0]
    assert mx.abs(filled).sum().item() == 3.0


def test_gradient_of_children_goes_to_their_parents(small_config):
    """The hand-written gradient is that of the plain form, parents shared or not."""
    config = small_config(spawn={"per_cell": 0.15, "max_per_step": 2})
    births = plan_births(config, mx.array([[7, 7, -1], [0, -1, 2]]))
    mx.random.seed(0)
    shape = (2, config.slots, 4)
    x, g = mx.random.normal(shape), mx.random.normal(shape)

    def plain(x):
        return place_children(births, x, take_parents(births, x))

    _, (own,) = mx.vjp(lambda x: inherit(births, x), [x], [g])
    _, (expected,) = mx.vjp(plain, [x], [g])
    assert mx.allclose(own, expected, atol=1e-6)
    cells = config.surface_size
    children = g[0, cells] + g[0, cells + 1]
    assert mx.allclose(own[0, 7], g[0, 7] + children, atol=1e-6)


def test_the_highest_scores_get_the_free_slots_in_order(small_config):
    config = small_config(spawn={"rule": "learned", "per_cell": 0.15, "threshold": 0.4})
    score = mx.full((2, config.slots), 0.1)
    score[0, 4], score[0, 9], score[0, 2], score[0, 7] = 0.5, 0.9, 0.6, 0.8
    score[1, 3], score[1, 5] = 0.7, 0.39
    every = mx.full(score.shape, True)
    parents = choose_parents(config, score, every, exists(config, 2))
    assert parents.tolist() == [[9, 7, 2], [3, -1, -1]]
    fewer = choose_parents(config, score, every, exists(config, 2, children=2))
    assert fewer.tolist() == [[-1, -1, 9], [-1, -1, 3]]
    nobody = choose_parents(config, score, mx.logical_not(every), exists(config, 2))
    assert nobody.tolist() == [[-1] * 3] * 2
