"""Made-up flows for pictures: known positions, energies, births and arrivals."""

import numpy as np

from energyflow_mlx.evaluation.flow_record import Cube, FlowRecord

STATISTICS = {
    "reached_near": 0.4,
    "reached_far": 0.5,
    "reached": 0.9,
    "projected": 0.1,
    "covered": 0.875,
    "created": 12.0,
    "spawned": 2.0,
    "steps": 3.5,
    "path": 1.25,
    "sideways": 0.3125,
}


def count_on_face(landed, face, width, height):
    """Flows on each cell of a face, one after the other; the nearest cell counts."""
    counts = np.zeros((height, width))
    for x, y, z in landed:
        column, row = (
            np.rint((u + 1) / 2 * (n - 1)) for u, n in ((x, width), (y, height))
        )
        counts[int(row), int(column)] += z == face
    return counts


def make_cube(width=6, height=5, steps=4, is_dual=True):
    return Cube(width, height, steps, 0.0, is_dual)


def make_record(cube, text="A dog runs.", seed=0, spawned=2):
    """One flow a cell, by turns to the near and the far face, and some children.

    The first flow never arrives; the others need all steps or one less.
    """
    rng = np.random.default_rng(seed)
    cells = cube.width * cube.height
    x, y = np.meshgrid(np.linspace(-1, 1, cube.width), np.linspace(-1, 1, cube.height))
    start = np.stack([x.ravel(), y.ravel(), np.full(cells, cube.start_z)], axis=1)
    start = np.concatenate([start, start[:spawned]])
    number = np.arange(len(start))
    born = np.where(number < cells, 0, 1)
    face = np.where((number % 2 == 0) & cube.is_dual, -1.0, 1.0)
    last = cube.steps - (number % 3 == 0)
    times = np.arange(cube.steps + 1)[:, None]
    way = np.clip((times - born) / (last - born), 0, 1)
    way[:, 0] *= 0.7
    bend = np.stack([0.2 * np.sin(number + seed), 0.1 * np.cos(number)], axis=1)
    position = np.zeros((cube.steps + 1, len(start), 3), np.float32)
    position[..., :2] = np.clip(start[:, :2] + way[..., None] * bend, -1, 1)
    position[..., 2] = way * face
    arrived = np.where(number == 0, cube.steps + 1, last)
    landed = position[-1].copy()
    landed[:, 2] = face
    energy = rng.standard_normal((cube.steps + 1, len(start)))
    return FlowRecord(
        text=text,
        result="cosine of the vector out to the vector in: 0.900",
        statistics=STATISTICS | {"created": float(len(start))},
        position=position,
        energy=energy.astype(np.float32),
        alive=(times >= born) & (times < arrived),
        reached=np.where(arrived > cube.steps, 0.0, face),
        age=np.minimum(arrived, cube.steps) - born.astype(float),
        landed=landed,
        arrivals_near=count_on_face(landed, -1.0, cube.width, cube.height),
        arrivals_far=count_on_face(landed, 1.0, cube.width, cube.height),
        surface_in=rng.standard_normal((cube.height, cube.width)),
        surface_out=rng.standard_normal((cube.height, cube.width)),
        worth=np.repeat(np.linspace(0, 0.5, cube.height)[:, None], cube.width, 1),
    )
