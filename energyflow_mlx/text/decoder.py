"""Decoder: token ids so far and a sentence vector to the logits of the next token."""

from collections.abc import Sequence
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn

from energyflow_mlx.nn.conditioning import AdditiveConditioning, FiLMConditioning
from energyflow_mlx.nn.dropout import active_key
from energyflow_mlx.nn.tcn import TCNBlock
from energyflow_mlx.nn.token_table import TokenTable
from energyflow_mlx.ops import covered_tokens, layer_norm
from energyflow_mlx.ops.tcn_block import Film
from energyflow_mlx.text.blocks import BlockList, run_blocks
from energyflow_mlx.text.corrector import Evidence
from energyflow_mlx.text.encoder import check_tokens

Moving = tuple[mx.array, mx.array, list[list[mx.array]]]


class DecoderState(NamedTuple):
    """What one more step of generation needs; B is the first axis but of ``count``."""

    condition: mx.array  # [B, D], added to each token
    output_condition: mx.array | None  # [B, D], added before the final norm
    coverage: mx.array  # [B, D] float32, sum of the token embeddings so far
    count: mx.array  # [] float32, tokens so far
    films: list[Film | None]  # per block: scale and shift [B, D]
    blocks: list[list[mx.array]]  # per block: (K-1)*dilation arrays [B, H]
    guess: mx.array | None = None  # [B, G+1, D], added at each position; last is 0

    @property
    def moving(self) -> Moving:
        """What a step changes."""
        return self.coverage, self.count, self.blocks

    def moved(self, moving: Moving) -> "DecoderState":
        """Return the state after a step."""
        coverage, count, blocks = moving
        return self._replace(coverage=coverage, count=count, blocks=blocks)

    def reorder(self, rows: mx.array) -> "DecoderState":
        """Return the pasts of other rows ``[B]`` that have the same vectors."""
        blocks = [[past[rows] for past in block] for block in self.blocks]
        return self.moved((self.coverage[rows], self.count, blocks))

    def select(self, rows: mx.array) -> "DecoderState":
        """Return the state of other rows, ``[B']`` integers, repeats allowed."""
        output, guess = self.output_condition, self.guess
        return self.reorder(rows)._replace(
            condition=self.condition[rows],
            output_condition=None if output is None else output[rows],
            guess=None if guess is None else guess[rows],
            films=[film and (film[0][rows], film[1][rows]) for film in self.films],
        )


class TCNDecoder(nn.Module):
    """Conditioned causal TCN over tokens.

    x0_t = Emb(ids_t) + Linear(z) + Linear(c_t),  c_t = sum_{i<=t} Emb(ids_i) / sqrt(t)
    logits_t = Linear(LN(blocks(x0)_t + Linear(z)))

    ``c_t`` is the coverage: what has been said, beyond the blocks' receptive field, in
    one running sum. The second ``Linear(z)`` lets the vector speak to the words
    directly. With ``conditioning="film"`` the vector also scales and shifts the input
    of every block. The final norm keeps the logits' scale independent of the depth; its
    weights start at ``1 / sqrt(D)`` where the token table is the output matrix too.

    Measured with a PyTorch twin (20,000 real captions, MiniLM vectors, 1,500 updates of
    64): greedy BLEU on held-out captions 37.3 without these two terms, 40.6 with the
    coverage, 41.4 with both; cross entropy 1.66, 1.46, 1.42, and 1.79 without the norm.
    """

    def __init__(
        self,
        vocab_size: int,
        latent_dim: int,
        blocks: BlockList,
        *,
        conditioning: str,
        coverage: bool,
        output_condition: bool,
        tied: bool,
    ) -> None:
        """Create a decoder.

        Args:
            vocab_size: Tokens V.
            latent_dim: Width E of the sentence vector.
            blocks: Its blocks, those it shares included; causal.
            conditioning: ``"additive"`` or ``"film"``.
            coverage: Whether the running sum of the tokens is added at the input.
            output_condition: Whether the vector is added before the final norm too.
            tied: Whether the token table is the output matrix too.

        Raises:
            ValueError: A value is out of range.
        """
        super().__init__()
        if conditioning not in ("additive", "film"):
            raise ValueError(
                "[TCNDecoder] conditioning must be 'additive' or 'film', "
                f"got {conditioning!r}."
            )
        if not blocks.causal:
            raise ValueError("[TCNDecoder] blocks must be causal.")
        dim = blocks.dim
        self.embedding = TokenTable(vocab_size, dim)
        self.condition = AdditiveConditioning(latent_dim, dim)
        if coverage:
            self.coverage = nn.Linear(dim, dim)
        if output_condition:
            self.output_condition = AdditiveConditioning(latent_dim, dim)
        self.blocks = list(blocks)
        if conditioning == "film":
            self.films = [
                FiLMConditioning(latent_dim, dim) for _ in range(blocks.count)
            ]
        self.norm = nn.LayerNorm(dim)
        if tied:
            self.output_bias = mx.zeros(vocab_size)
            # A teacher's rows are sqrt(D) times as long as those of a fresh matrix.
            self.norm.weight = mx.full(dim, dim**-0.5)
        else:
            self.output = nn.Linear(dim, vocab_size)
        self._list = blocks
        self._has_films = conditioning == "film"
        self._has_coverage = coverage
        self._has_output_condition = output_condition
        self._tied = tied

    def features(
        self,
        ids: mx.array,
        mask: mx.array,
        z: mx.array,
        shared: Sequence[TCNBlock] = (),
        *,
        evidence: Evidence | None = None,
        key: mx.array | None = None,
    ) -> mx.array:
        """Compute the features from which each next token is predicted.

        Args:
            ids: Token ids, ``[B, L]`` integers; zeros for one outside the table.
            mask: 1 for real tokens, ``[B, L]``.
            z: Sentence vectors, ``[B, E]``.
            shared: The shared blocks.
            evidence: What a corrector read in guesses; none = there are none.
            key: Random key, wanted in training when there is dropout.

        Returns:
            ``[B, L, D]``; position ``l`` depends on ``ids[:, :l+1]``, ``z`` and the
            evidence only.

        Raises:
            ValueError: Shapes, shared blocks or key do not fit.
            TypeError: ``ids`` are not integers.
        """
        check_tokens("TCNDecoder", ids, mask)
        self._list.check_shared("TCNDecoder", shared)
        if z.shape[0] != ids.shape[0]:
            raise ValueError(
                f"[TCNDecoder] z must have {ids.shape[0]} rows like ids, "
                f"got {z.shape[0]}."
            )
        rate = self._list.dropout
        key = active_key("TCNDecoder", training=self.training, rate=rate, key=key)
        tokens = self.embedding(ids)  # [B, L, D]
        condition = self._condition(z, evidence)
        if self._has_coverage:
            projection = self.coverage
            x = covered_tokens(
                tokens, mask, condition, projection.weight, projection.bias
            )
        else:
            x = tokens + condition[:, None, :]
            x = x * mask[..., None].astype(x.dtype)
        if evidence is not None:
            x = x + evidence.at(x.shape[1]) * mask[..., None].astype(x.dtype)
        films = self._films(z, evidence)
        x = run_blocks([*self.blocks, *shared], x, mask, films, key=key)
        added = self._output_condition(z, evidence)
        norm = self.norm
        return layer_norm(x, norm.weight, norm.bias, norm.eps, added)

    def output_layer(self) -> tuple[mx.array, mx.array]:
        """Matrix ``[V, D]`` and bias ``[V]`` that map features to logits."""
        if self._tied:
            return self.embedding.weight, self.output_bias
        return self.output.weight, self.output.bias

    def logits(self, h: mx.array, offset: mx.array | None = None) -> mx.array:
        """Map features ``[..., D]`` to logits ``[..., V]``.

        Args:
            h: The features.
            offset: Added to the bias, ``[V]``: minus infinity bans a token, and costs
                no pass over the logits.
        """
        weight, bias = self.output_layer()
        if offset is not None:
            bias = bias + offset.astype(bias.dtype)
        return mx.addmm(bias, h, weight.T)

    def __call__(
        self,
        ids: mx.array,
        mask: mx.array,
        z: mx.array,
        shared: Sequence[TCNBlock] = (),
        *,
        evidence: Evidence | None = None,
        key: mx.array | None = None,
    ) -> mx.array:
        """Return the logits of the next token at every position, ``[B, L, V]``.

        Arguments and errors as in :meth:`features`.
        """
        h = self.features(ids, mask, z, shared, evidence=evidence, key=key)
        return self.logits(h)

    def init_state(
        self,
        z: mx.array,
        shared: Sequence[TCNBlock] = (),
        evidence: Evidence | None = None,
    ) -> DecoderState:
        """Prepare generation from ``z [B, E]``; the conditioning is computed once."""
        self._list.check_shared("TCNDecoder", shared)
        blocks = [*self.blocks, *shared]
        condition = self._condition(z, evidence)
        if self._has_coverage:
            condition = condition + self.coverage.bias
        films = self._films(z, evidence)
        films = [film and (film[0][:, 0], film[1][:, 0]) for film in films]
        return DecoderState(
            condition=condition,
            output_condition=self._output_condition(z, evidence),
            coverage=mx.zeros((z.shape[0], self._list.dim)),
            count=mx.zeros(()),
            films=films,
            blocks=[block.init_state(z.shape[0]) for block in blocks],
            guess=evidence.at(evidence.tokens.shape[1] + 1) if evidence else None,
        )

    def step(
        self,
        ids: mx.array,
        state: DecoderState,
        shared: Sequence[TCNBlock] = (),
        offset: mx.array | None = None,
    ) -> tuple[mx.array, DecoderState]:
        """Feed one token per sentence; the work does not depend on those before it.

        Args:
            ids: Last token of each sentence, ``[B]`` integers.
            state: What :meth:`init_state` or the last step returned.
            shared: The shared blocks.
            offset: As for :meth:`logits`.

        Returns:
            Logits of the next token, ``[B, V]``, and the next state.
        """
        token = self.embedding(ids)  # [B, D]
        x = token + state.condition
        coverage, count = state.coverage + token, state.count + 1.0
        if self._has_coverage:
            said = (coverage * mx.rsqrt(count)).astype(x.dtype)
            x = mx.addmm(x, said, self.coverage.weight.T)
        if state.guess is not None:
            last = state.guess.shape[1] - 1
            place = mx.minimum(state.count, last).astype(mx.int32)
            x = x + mx.take(state.guess, place, axis=1)
        states = []
        blocks = [*self.blocks, *shared]
        for block, past, film in zip(blocks, state.blocks, state.films, strict=True):
            x, past = block.step(x, past, film)
            states.append(past)
        if state.output_condition is not None:
            x = x + state.output_condition
        state = state._replace(blocks=states, coverage=coverage, count=count)
        return self.logits(self.norm(x), offset), state

    def _condition(self, z: mx.array, evidence: Evidence | None) -> mx.array:
        """What is added to each token, ``[B, D]``."""
        added = self.condition(z)
        return added if evidence is None else added + evidence.condition

    def _output_condition(
        self, z: mx.array, evidence: Evidence | None
    ) -> mx.array | None:
        """What is added before the final norm, ``[B, D]``, if anything."""
        if not self._has_output_condition:
            return None
        added = self.output_condition(z)
        return added if evidence is None else added + evidence.output_condition

    def _films(self, z: mx.array, evidence: Evidence | None) -> list[Film | None]:
        """Scale and shift ``[B, 1, D]`` of each block, or none of them."""
        if not self._has_films:
            return [None] * self._list.count
        films: list[Film | None] = [film(z) for film in self.films]
        if evidence is None:
            return films
        pairs = zip(films, evidence.films, strict=True)
        return [own and (own[0] + more[0], own[1] + more[1]) for own, more in pairs]
