"""Parameters of one fate side by side in one vector.

An optimiser does the same few operations to every parameter. On a GPU each of them is a
launch, and a launch costs as much as the work on a million numbers: with some fifteen
tensors they were over half of a step. So those that are always stepped together, with
one step count and one decay, lie in one vector, the *pack*, as do their moments and
gradients. A tensor is a view of its pack, and reading it costs nothing.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import NamedTuple

import mlx.core as mx

Arrays = dict[str, mx.array]

# Larger ones stay alone: a pass over them is worth a launch, and a copy is not.
_LARGEST = 2**20
_ALIGNMENT = 64


class Pack(NamedTuple):
    """Tensors in one vector, or one tensor alone in its own shape.

    Attributes:
        name: What they have in common, for messages.
        shapes: Shape of each tensor by path, in the order of the vector.
    """

    name: str
    shapes: dict[str, tuple[int, ...]]

    def join(self, arrays: Mapping[str, mx.array]) -> mx.array:
        """Vector of the tensors, ``[sum of sizes]``; a lone tensor as it is."""
        if len(self.shapes) == 1:
            return arrays[next(iter(self.shapes))]
        return mx.concatenate([arrays[path].reshape(-1) for path in self.shapes])

    def split(self, vector: mx.array) -> Arrays:
        """Views of the tensors, by path; inverse of ``join``."""
        if len(self.shapes) == 1:
            return {next(iter(self.shapes)): vector}
        sizes = [math.prod(shape) for shape in self.shapes.values()]
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]
        parts = mx.split(vector, ends)
        return {
            path: part.reshape(shape)
            for (path, shape), part in zip(self.shapes.items(), parts, strict=True)
        }


class Packing:
    """Which tensors lie together.

    Attributes:
        packs: By name.
    """

    def __init__(self, parameters: Arrays, fate: Callable[[str], Hashable]) -> None:
        """Group parameters.

        Args:
            parameters: By path.
            fate: What tensors of a pack have in common. None: the tensor is alone.
        """
        groups: dict[Hashable, list[str]] = defaultdict(list)
        for path in sorted(parameters):
            common = fate(path)
            alone = common is None or parameters[path].size > _LARGEST
            groups[path if alone else ("pack", common)].append(path)
        self.packs: dict[str, Pack] = {}
        for paths in groups.values():
            # Odd sizes come last, so that the others start at wide addresses.
            paths.sort(key=lambda path: parameters[path].size % _ALIGNMENT != 0)
            name = paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1}"
            shapes = {path: tuple(parameters[path].shape) for path in paths}
            self.packs[name] = Pack(name, shapes)

    def of(self, paths: set[str]) -> list[Pack]:
        """Packs whose tensors are among these paths.

        Raises:
            ValueError: A pack is there in part.
        """
        found = [self.packs[name] for name in self.holding(paths)]
        for pack in found:
            if not pack.shapes.keys() <= paths:
                missing = sorted(pack.shapes.keys() - paths)
                raise ValueError(
                    f"[packing] {pack.name} must be whole, without {missing}"
                )
        return found

    def holding(self, paths: Iterable[str]) -> list[str]:
        """Names of the packs in which any of these tensors lies."""
        wanted = set(paths)
        packs = self.packs.values()
        return [p.name for p in packs if not p.shapes.keys().isdisjoint(wanted)]

    def join(self, arrays: Arrays) -> Arrays:
        """Vectors of the packs of these tensors, by name of the pack."""
        return {pack.name: pack.join(arrays) for pack in self.of(set(arrays))}

    def split(self, vectors: Arrays) -> Arrays:
        """Views of the tensors by path; inverse of ``join``."""
        found: Arrays = {}
        for name, vector in vectors.items():
            found |= self.packs[name].split(vector)
        return found
