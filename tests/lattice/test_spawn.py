import mlx.core as mx

from energyflow_mlx.lattice.spawn import assign_slots, count_children, inherit


def exists(config, batch, children=0):
    used = config.surface_size + children
    return mx.broadcast_to(mx.arange(config.slots) < used, (batch, config.slots))


def test_children_follow_the_length_of_the_move(small_config):
    """F21: the threshold is a normalised length, defined once."""
    config = small_config(spawn_slots=4, spawn_threshold=0.25, max_spawn_per_step=2)
    length = mx.array([[0.0, 0.25, 0.49, 0.5, 0.74, 0.75, 1.5]])
    every = mx.full(length.shape, True)
    assert count_children(config, length, every).tolist() == [[0, 0, 0, 1, 1, 2, 2]]
    nobody = count_children(config, length, mx.logical_not(every))
    assert nobody.tolist() == [[0] * 7]


def test_slots_are_handed_out_in_order_until_none_is_left(small_config):
    config = small_config(spawn_slots=3, max_spawn_per_step=2)
    wanted = mx.zeros((2, config.slots), dtype=mx.int32)
    wanted[0, 4], wanted[0, 9], wanted[1, 2] = 2, 2, 1
    parents = assign_slots(config, wanted, exists(config, 2))
    assert parents.tolist() == [[4, 4, 9], [2, -1, -1]]


def test_slots_in_use_are_never_given_away_again(small_config):
    config = small_config(spawn_slots=3, max_spawn_per_step=2)
    wanted = mx.zeros((1, config.slots), dtype=mx.int32)
    wanted[0, 1] = 2
    assert assign_slots(config, wanted, exists(config, 1, 2)).tolist() == [[-1, -1, 1]]
    assert assign_slots(config, wanted, exists(config, 1, 3)).tolist() == [[-1] * 3]


def test_children_copy_the_row_of_their_parent_in_their_own_sample(small_config):
    config = small_config(spawn_slots=2)
    rows = mx.arange(2 * config.slots * 3).reshape(2, config.slots, 3)
    own = mx.negative(rows)
    parents = mx.array([[5, -1], [-1, 0]])
    filled = inherit(config, parents, own, rows)
    cells = config.surface_size
    assert mx.array_equal(filled[:, :cells], own[:, :cells])
    assert mx.array_equal(filled[0, cells], rows[0, 5])
    assert mx.array_equal(filled[0, cells + 1], own[0, cells + 1])
    assert mx.array_equal(filled[1, cells], own[1, cells])
    assert mx.array_equal(filled[1, cells + 1], rows[1, 0])


def test_gradient_of_a_child_goes_to_its_parent(small_config):
    config = small_config(spawn_slots=1)
    parents = mx.array([[7]])

    def child(energy):
        return inherit(config, parents, energy, energy)[0, -1]

    slope = mx.grad(child)(mx.ones((1, config.slots)))
    assert slope[0, 7].item() == 1.0
    assert slope.sum().item() == 1.0
