"""Sentences through the lattice of a finished run, the path of every flow kept."""

import mlx.core as mx
import numpy as np

from energyflow_mlx.config import LatticeConfig
from energyflow_mlx.data.batching import pad_rows
from energyflow_mlx.data.vectors import unit_rows
from energyflow_mlx.errors import InputError
from energyflow_mlx.evaluation.flow_record import Cube, FlowRecord
from energyflow_mlx.evaluation.similarity import cosine_rows
from energyflow_mlx.inference import SentenceCodec
from energyflow_mlx.lattice import EnergyLattice, FlowPaths, count_arrivals
from energyflow_mlx.lattice.geometry import FACE_FAR, FACE_NEAR, start_level

_LEAST_EDGE = 5  # cells of a region
_MOST_REGIONS = 8  # along an edge of the surface
_TOGETHER = 16  # surfaces that travel together


def cube_of(config: LatticeConfig) -> Cube:
    """What all sentences of a lattice have in common."""
    cube = config.cube
    return Cube(
        width=cube.width,
        height=cube.height,
        steps=config.total_steps,
        start_z=start_level(cube.depth),
        is_dual=cube.is_dual,
    )


def trace_vectors(
    codec: SentenceCodec, texts: list[str], vectors: np.ndarray
) -> list[FlowRecord]:
    """Vectors through the lattice, one at a time, every path kept.

    Args:
        codec: A model with a lattice.
        texts: What the vectors stand for.
        vectors: The teacher's vectors of the texts, ``[N, E]``.

    Raises:
        InputError: The vectors have another size than the model's.
    """
    if vectors.shape[1] != codec.dimension:
        raise InputError(
            f"[plot] the teacher must give vectors of {codec.dimension} numbers as the "
            f"run's, got {vectors.shape[1]}."
        )
    config, records = codec.model.lattice.config, []
    for text, vector in zip(texts, vectors, strict=True):
        lattice = codec.model.lattice
        paths = lattice.trace(mx.array(vector[None]))
        output = _host(paths.output.vector)
        cosine = float(cosine_rows(output, vector[None])[0])
        result = f"cosine of the vector out to the vector in: {cosine:.3f}"
        worth = worth_of_regions(lattice, paths)
        records.append(record_flows(text, result, paths, worth, config))
    return records


def trace_texts(codec: SentenceCodec, texts: list[str]) -> list[FlowRecord]:
    """Sentences through encoder and lattice, one at a time, every path kept."""
    model, data = codec.model, codec.config.data
    config, records = model.lattice.config, []
    for text, row in zip(
        texts, codec.tokenizer.encode(texts, data.max_length), strict=True
    ):
        ids, mask = pad_rows([row], len(row))
        surface = model.encode_surface(mx.array(ids), mx.array(mask))
        paths = model.lattice.trace_surface(surface)
        vector = unit_rows(_host(paths.output.vector))
        result = f"read back from the vector: {codec.decode(vector)[0]}"
        worth = worth_of_regions(model.lattice, paths)
        records.append(record_flows(text, result, paths, worth, config))
    return records


def worth_of_regions(lattice: EnergyLattice, paths: FlowPaths) -> np.ndarray:
    """What the vector of a sentence loses when a region starts without energy.

    The regions are rectangles of five cells or more along each edge of the surface, and
    at most eight of them.

    Args:
        lattice: What the sentence went through.
        paths: Trace of the sentence alone, B = 1.

    Returns:
        One minus the cosine to the vector as it was, for the region of each cell,
        ``[H, W]``.
    """
    surface = _host(paths.output.surface_in)  # [1, H, W]
    whole = _host(paths.output.vector)
    height, width = surface.shape[1:]
    rows, columns = (
        max(1, min(_MOST_REGIONS, n // _LEAST_EDGE)) for n in (height, width)
    )
    row, column = np.ogrid[:height, :width]
    region = row * rows // height * columns + column * columns // width  # [H, W]
    count, most = int(region.max()) + 1, min(_TOGETHER, lattice.config.most_samples)
    losses = []
    for start in range(0, count, most):
        numbers = np.arange(start, min(start + most, count))
        kept = surface * (region != numbers[:, None, None])
        vectors = _host(lattice.from_surface(mx.array(kept)).vector)
        losses += list(1.0 - cosine_rows(vectors, np.repeat(whole, len(vectors), 0)))
    return np.array(losses, np.float32)[region]


def record_flows(
    text: str,
    result: str,
    paths: FlowPaths,
    worth: np.ndarray,
    config: LatticeConfig,
) -> FlowRecord:
    """The only sample of a trace as NumPy arrays, unused slots left out.

    Args:
        text: The sentence.
        result: One line on what came out of the lattice.
        paths: Trace of the sentence alone, B = 1.
        worth: What ``worth_of_regions`` gives.
        config: Settings of the lattice.
    """
    output = paths.output
    flows = output.flows
    used = _host(flows.exists)[0]
    near, far = (count_arrivals(config, flows, face) for face in (FACE_NEAR, FACE_FAR))
    return FlowRecord(
        text=text,
        result=result,
        statistics={n: float(_host(v)) for n, v in output.statistics.items()},
        position=_host(paths.position)[:, 0, used],
        energy=_host(paths.energy)[:, 0, used],
        alive=_host(paths.alive)[:, 0, used],
        reached=_host(flows.reached)[0, used],
        age=_host(flows.age)[0, used],
        landed=_host(flows.position)[0, used],
        arrivals_near=_host(near)[0],
        arrivals_far=_host(far)[0],
        surface_in=_host(output.surface_in)[0],
        surface_out=_host(output.surface_out)[0],
        worth=worth,
        field=None if paths.field is None else _host(paths.field)[:, 0, ..., 0],
    )


def _host(a: mx.array) -> np.ndarray:
    """On the host; NumPy has no bfloat16."""
    return np.array(a.astype(mx.float32) if a.dtype == mx.bfloat16 else a)
