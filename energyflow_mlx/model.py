"""The whole model: the one owner of every layer, the shared blocks included.

Encoder and decoder may share blocks. A layer reachable by two attribute paths
would show twice in the parameter tree and get its gradient on one path only, so
the shared blocks live here, once, and are passed to both as call arguments.

``EnergyFlow`` has an encoder, a decoder or both, which meet in the teacher's space.
``LatticeFlow`` has the energy lattice in between.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from energyflow_mlx.errors import InputError
from energyflow_mlx.lattice import EnergyLattice
from energyflow_mlx.nn.tcn import TCNBlock
from energyflow_mlx.text.corrector import Corrector, Evidence, Guess
from energyflow_mlx.text.decoder import TCNDecoder
from energyflow_mlx.text.encoder import TCNEncoder, TransformerEncoder
from energyflow_mlx.text.token_ids import checked_tokens

Encode = Callable[[mx.array, mx.array], mx.array]


class EnergyFlow(nn.Module):
    """Text encoder and vector-to-text decoder, as far as they are wanted.

    Args:
        encoder: Maps ids to vectors ``[B, E]``.
        decoder: Maps vectors ``[B, E]`` and earlier ids to next-token logits.
        shared: Blocks that run last in both; may be empty.
        corrector: Reads guesses for the decoder.

    Attributes:
        paths: Parts that each call of a trained model runs through.
        takes_vectors: Whether vectors can be sent through it, without any text.
    """

    takes_vectors: ClassVar[bool] = False
    paths: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "encode": ("encoder",),
        "decode": ("decoder",),
        "transform": ("lattice",),
    }

    def __init__(
        self,
        encoder: TCNEncoder | TransformerEncoder | None,
        decoder: TCNDecoder | None,
        shared: Iterable[TCNBlock],
        corrector: Corrector | None = None,
    ) -> None:
        super().__init__()
        if encoder is not None:
            self.encoder = encoder
        if decoder is not None:
            self.decoder = decoder
        if corrector is not None:
            self.corrector = corrector
        self.shared = list(shared)

    @property
    def most_rows(self) -> int:
        """Sentences that one forward pass takes; 0 = as many as memory has room for."""
        return 0

    def require(self, call: str, part: str) -> None:
        """Refuse a call that wants a part this model was built without.

        Args:
            call: What the user called, for the message.
            part: ``encoder``, ``decoder`` or ``lattice``.

        Raises:
            InputError: The model has no such part.
        """
        if part not in self:
            raise InputError(f"[{call}] this model has no {part}.")

    def encode(
        self, ids: mx.array, mask: mx.array, *, key: mx.array | None = None
    ) -> mx.array:
        """Student vectors ``[B, E]``, not normalized.

        A model in evaluation mode reads and checks the ids, so ``mx.compile`` cannot
        take this call; see ``compiled_encode``. In training the data were checked.

        Args:
            ids: Token ids, ``[B, L]`` integers; MLX or NumPy.
            mask: 1 for real tokens, 0 for padding, ``[B, L]``.
            key: Random key of the dropouts, in training.

        Raises:
            InputError: Shapes do not fit, or an id is not in the vocabulary.
        """
        return self._encoded(*self._checked("encode", ids, mask), key=key)

    def _encoded(
        self, ids: mx.array, mask: mx.array, *, key: mx.array | None = None
    ) -> mx.array:
        """``encode`` as a graph: ids are not read."""
        return self.encoder(ids, mask, shared=self.shared, key=key)

    def encode_rows(
        self, rows: mx.array, mask: mx.array, *, key: mx.array | None = None
    ) -> mx.array:
        """``encode`` of sentences given as rows of the token table, or mixtures.

        Args:
            rows: A row for each token, ``[B, L, R]``, R the width of the encoder's
                token table.
            mask: 1 for real tokens, 0 for padding, ``[B, L]``.
            key: Random key of the dropouts, in training.

        Returns:
            Student vectors ``[B, E]``, not normalized.
        """
        return self.encoder.encode_rows(rows, mask, shared=self.shared, key=key)

    def compiled_encode(self) -> Encode:
        """``encode`` for inference, compiled once for every batch shape.

        Ids are not checked: one that is not in the vocabulary counts as zeros.
        """
        return mx.compile(self._encoded, inputs=[self.state])

    def _checked(
        self, call: str, ids: mx.array, mask: mx.array, part: str = "encoder"
    ) -> tuple[mx.array, mx.array]:
        """Ids and mask for a part; in evaluation mode they are checked first."""
        if self.training:
            return ids, mask
        self.require(call, part)
        size = self[part].embedding.weight.shape[0]
        return checked_tokens(call, ids, mask, size)

    def transform(self, vector: mx.array) -> mx.array:
        """Vectors ``[B, E]`` that come out of the lattice for those that go in.

        Raises:
            InputError: The model has no lattice.
        """
        raise InputError("[transform] this model has no lattice.")

    def decode_features(
        self,
        ids: mx.array,
        mask: mx.array,
        z: mx.array,
        *,
        guess: Guess | None = None,
        key: mx.array | None = None,
    ) -> mx.array:
        """Decoder features before the output projection, ``[B, L, D]``.

        Args:
            ids: Input ids under teacher forcing, ``[B, L]`` integers, checked as in
                ``encode``.
            mask: 1 for real tokens, ``[B, L]``.
            z: Condition, ``[B, E]``.
            guess: What the sentences may be; none = nothing is known.
            key: Random key of the dropouts, in training.

        Raises:
            InputError: As in ``encode``.
        """
        call = "decode_features"
        ids, mask = self._checked(call, ids, mask, "decoder")
        evidence = None
        if guess is not None:
            read, known = self._checked(call, guess.ids, guess.mask, "decoder")
            guess = guess._replace(ids=read, mask=known)
            key, own = (None, None) if key is None else mx.random.split(key)
            evidence = self.evidence(guess, z, key=own)
        return self.decoder.features(
            ids, mask, z, shared=self.shared, evidence=evidence, key=key
        )

    def evidence(
        self, guess: Guess, z: mx.array, *, key: mx.array | None = None
    ) -> Evidence:
        """What the corrector reads in guesses at sentences of ``z [B, E]``."""
        tokens = self.decoder.embedding(guess.ids)  # [B, G, D]
        return self.corrector(tokens, guess, z, key=key)

    def __call__(self, ids: mx.array, mask: mx.array) -> mx.array:
        """Student vectors ``[B, E]``; the same as ``encode`` without dropout."""
        return self.encode(ids, mask)


class LatticeFlow(EnergyFlow):
    """A model whose vectors travel through the energy lattice.

    Args:
        encoder: Maps ids to surfaces ``[B, S]``; none for vectors alone.
        decoder: As in ``EnergyFlow``.
        shared: As in ``EnergyFlow``.
        corrector: As in ``EnergyFlow``.
        lattice: Sends vectors or surfaces through the cube.
    """

    paths = {
        "encode": ("encoder", "lattice.flow", "lattice.collector"),
        "decode": ("decoder",),
        "transform": ("lattice.mapper", "lattice.flow", "lattice.collector"),
    }
    takes_vectors = True

    def __init__(
        self,
        encoder: TCNEncoder | TransformerEncoder | None,
        decoder: TCNDecoder | None,
        shared: Iterable[TCNBlock],
        lattice: EnergyLattice,
        corrector: Corrector | None = None,
    ) -> None:
        super().__init__(encoder, decoder, shared, corrector)
        self.lattice = lattice

    @property
    def most_rows(self) -> int:
        """As many as ``lattice.cube.max_active_flows`` lets travel together."""
        return self.lattice.config.most_samples

    def _encoded(
        self, ids: mx.array, mask: mx.array, *, key: mx.array | None = None
    ) -> mx.array:
        """Vectors ``[B, E]`` of the sentences after the lattice, not normalized.

        The key is the encoder's and the lattice's.
        """
        return self._sent(super()._encoded, ids, mask, key)

    def encode_rows(
        self, rows: mx.array, mask: mx.array, *, key: mx.array | None = None
    ) -> mx.array:
        """As in ``EnergyFlow``, through the lattice.

        The key is the encoder's and the lattice's.
        """
        return self._sent(super().encode_rows, rows, mask, key)

    def _sent(
        self,
        encode: Callable[..., mx.array],
        tokens: mx.array,
        mask: mx.array,
        key: mx.array | None,
    ) -> mx.array:
        """Vectors ``[B, E]`` that come out for what ``encode`` lays out."""
        front, rest = (None, None) if key is None else mx.random.split(key)
        surface = self._cells(encode(tokens, mask, key=front))
        return self.lattice.from_surface(surface, key=rest).vector

    def _cells(self, outputs: mx.array) -> mx.array:
        """The encoder's outputs ``[B, H * W]`` as surfaces ``[B, H, W]``."""
        cube = self.lattice.config.cube
        return outputs.reshape(-1, cube.height, cube.width)

    def encode_surface(
        self, ids: mx.array, mask: mx.array, *, key: mx.array | None = None
    ) -> mx.array:
        """Surfaces ``[B, H, W]`` that the sentences launch from.

        Arguments and errors as in ``EnergyFlow.encode``.
        """
        return self._surface(*self._checked("encode_surface", ids, mask), key=key)

    def _surface(
        self, ids: mx.array, mask: mx.array, *, key: mx.array | None = None
    ) -> mx.array:
        """``encode_surface`` as a graph: ids are not read."""
        return self._cells(super()._encoded(ids, mask, key=key))

    def compiled_encode(self) -> Encode:
        """``encode`` for inference: the surface is compiled here.

        The lattice compiles its step itself; the unrolled loop as a whole would take
        minutes.
        """
        surface = mx.compile(self._surface, inputs=[self.state])
        return lambda ids, mask: self.lattice.from_surface(surface(ids, mask)).vector

    def transform(self, vector: mx.array) -> mx.array:
        """Vectors ``[B, E]`` that come out of the lattice for those that go in."""
        return self.lattice(vector).vector


def flat_parameters(model: nn.Module) -> dict[str, mx.array]:
    """Every parameter by its path, e.g. ``"encoder.embedding.weight"``."""
    return dict(tree_flatten(model.parameters()))


def install_parameters(model: nn.Module, parameters: dict[str, mx.array]) -> None:
    """Put parameters, given by path, into the model."""
    model.update(tree_unflatten(list(parameters.items())))


Slots = dict[str, tuple[Any, Any]]


def parameter_slots(model: nn.Module) -> Slots:
    """Where each parameter lies: the module or list that holds it, and its key there.

    To install parameters by ``put_parameters`` at every update takes a hundredth of the
    time of ``install_parameters``, which builds and walks a tree.
    """
    slots: Slots = {}
    for path in flat_parameters(model):
        holder: Any = model
        *parts, last = (int(p) if p.isdigit() else p for p in path.split("."))
        for part in parts:
            holder = holder[part]
        slots[path] = (holder, last)
    return slots


def put_parameters(slots: Slots, parameters: dict[str, mx.array]) -> None:
    """Put parameters, given by path, into the slots of a model."""
    for path, parameter in parameters.items():
        holder, key = slots[path]
        holder[key] = parameter


@contextmanager
def fixed_parameters(model: nn.Module) -> Iterator[None]:
    """Context in which nothing that a model computes has a gradient for its weights.

    Gradients with respect to what it is given pass through it.
    """
    slots, parameters = parameter_slots(model), flat_parameters(model)
    fixed = {path: mx.stop_gradient(p) for path, p in parameters.items()}
    put_parameters(slots, fixed)
    try:
        yield
    finally:
        put_parameters(slots, parameters)


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Number of parameters of each top-level part, and of all together."""
    counts: dict[str, int] = {}
    for path, value in flat_parameters(model).items():
        part = path.split(".", 1)[0]
        counts[part] = counts.get(part, 0) + value.size
    return {**counts, "total": sum(counts.values())}
