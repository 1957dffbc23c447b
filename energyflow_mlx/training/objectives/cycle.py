"""Cycle consistency: text that the decoder writes, read again by the encoder."""

import mlx.core as mx

from energyflow_mlx.model import EnergyFlow, fixed_parameters
from energyflow_mlx.nn.losses import cosine
from energyflow_mlx.nn.soft_tokens import expected_rows
from energyflow_mlx.ops import pack_rows
from energyflow_mlx.training.objectives.base import StepBatch
from energyflow_mlx.training.token_rows import candidate_softmax


def cycle_cosine(
    model: EnergyFlow, batch: StepBatch, h: mx.array, key: mx.array
) -> mx.array:
    """Cosine of each sentence, as it is written, with itself, both encoded.

        cos(encode(start, e_1, ..., e_{L-1}), encode(sentence))
        e_{t+1} = sum_v p(v | token_{<=t}, z) E[v]

    E is the encoder's token table: under teacher forcing each prediction becomes a soft
    token, in the place of the token that it predicts. A mean row is used, and not that
    of the likeliest token with a gradient made up for it, because the term then has its
    own gradient and, over drawn candidates, is still an estimate of the whole softmax.

    The encoder is fixed, or it would learn to give every text one vector. Its own
    vector of the sentence is the goal, and not the vector that was decoded: only so is
    the sentence itself the best text. An encoder that misses the teacher's vector would
    find others nearer to it. Both texts have the key of one dropout.

    Args:
        model: Model with encoder and decoder.
        batch: The sentences, their targets packed.
        h: Features of the predictions, ``[T, D]``, packed likewise.
        key: Random key of the encoder's dropouts.

    Returns:
        ``[B]`` float32; its gradient reaches ``h`` and the decoder's output layer.
    """
    ids, mask, rows = batch.ids, batch.mask, batch.targets
    assert rows is not None, "who writes text packs its targets"
    weight, bias = model.decoder.output_layer()  # of V tokens, or of U candidates
    _, lowered = candidate_softmax(batch.rows, rows.token)
    offset = bias.astype(mx.float32)
    columns = mx.arange(weight.shape[0])
    if lowered is not None:
        offset, columns = offset - lowered, batch.rows.tokens
    with fixed_parameters(model):
        table = model.encoder.embedding
        soft = expected_rows(h, weight, offset, table(columns))  # [T, R]
        packed = mx.where(rows.count > 0, rows.position, -1)
        written = pack_rows(soft, rows.place, packed)  # [B * (L-1), R], 0 at padding
        written = written.reshape(ids.shape[0], -1, soft.shape[1])
        written = mx.concatenate([table(ids[:, :1]), written], axis=1)  # [B, L, R]
        found = model.encode_rows(written, mask, key=key)
        return cosine(found, model.encode(ids, mask, key=key))
