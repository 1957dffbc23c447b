"""The only place where config becomes models: typed, greppable, no names in files."""

import mlx.core as mx
import numpy as np

from energyflow_mlx.config import (
    Config,
    TcnEncoderConfig,
    TransformerEncoderConfig,
)
from energyflow_mlx.lattice import EnergyLattice
from energyflow_mlx.model import EnergyFlow
from energyflow_mlx.nn.tcn import TCNBlock
from energyflow_mlx.text.decoder import TCNDecoder
from energyflow_mlx.text.encoder import TCNEncoder, TransformerEncoder

# Token features of this rms keep the first layer norm and the residual stream in
# balance; the teacher's own word embeddings are about ten times smaller.
_TABLE_RMS = 0.5


def build_encoder(
    config: Config, vocab_size: int, dimension: int
) -> TCNEncoder | TransformerEncoder:
    """Encoder of the configured family with outputs ``[B, dimension]``.

    In front of a lattice its outputs are surfaces ``[B, S]`` bounded by tanh.
    """
    encoder = config.encoder
    output_tanh = encoder.output_tanh or config.lattice is not None
    if config.lattice is not None:
        dimension = config.lattice.surface_size
    if isinstance(encoder, TcnEncoderConfig):
        return TCNEncoder(
            vocab_size,
            dimension,
            dim=encoder.dim,
            hidden=encoder.hidden,
            kernel_size=encoder.kernel_size,
            dilations=encoder.dilations,
            causal=encoder.causal,
            pooling=encoder.pooling,
            embedding_rank=encoder.embedding_rank,
            token_dropout=encoder.token_dropout,
            dropout=encoder.dropout,
            output_tanh=output_tanh,
            gelu=encoder.gelu,
            shared_blocks=config.shared_blocks,
        )
    assert isinstance(encoder, TransformerEncoderConfig)
    return TransformerEncoder(
        vocab_size,
        dimension,
        dim=encoder.dim,
        layers=encoder.layers,
        heads=encoder.heads,
        hidden=encoder.hidden,
        max_length=encoder.max_positions,
        dropout=encoder.dropout,
        output_tanh=output_tanh,
        gelu=encoder.gelu,
    )


def build_decoder(config: Config, vocab_size: int, dimension: int) -> TCNDecoder:
    """Decoder from vectors ``[B, dimension]``."""
    decoder = config.decoder
    return TCNDecoder(
        vocab_size,
        dimension,
        dim=decoder.dim,
        hidden=decoder.hidden,
        kernel_size=decoder.kernel_size,
        dilations=decoder.dilations,
        conditioning=decoder.conditioning,
        coverage=decoder.coverage,
        output_condition=decoder.output_condition,
        tied=decoder.tied,
        dropout=decoder.dropout,
        gelu=decoder.gelu,
        shared_blocks=config.shared_blocks,
    )


def build_model(config: Config, vocab_size: int, dimension: int) -> EnergyFlow:
    """The whole model, drawn from ``config.seed``.

    Args:
        config: The run's configuration.
        vocab_size: Number of student tokens V.
        dimension: Size E of the teacher's vectors.
    """
    mx.random.seed(config.seed)
    lattice = None
    if config.lattice is not None:
        lattice = EnergyLattice(config.lattice, dimension)
    if config.task == "flow":
        return EnergyFlow(None, None, lattice=lattice)
    decoder = config.decoder
    shared = [
        TCNBlock(
            decoder.dim,
            decoder.hidden,
            decoder.kernel_size,
            dilation,
            causal=True,
            dropout=decoder.dropout,
            gelu=decoder.gelu,
        )
        for dilation in decoder.dilations[
            len(decoder.dilations) - config.shared_blocks :
        ]
    ]
    return EnergyFlow(
        build_encoder(config, vocab_size, dimension),
        build_decoder(config, vocab_size, dimension),
        shared,
        lattice,
    )


def start_tables(
    model: EnergyFlow, config: Config, word_embeddings: np.ndarray | None
) -> None:
    """Start token tables from the teacher's word embeddings where config asks.

    A table of another width than the teacher's is its best low-rank approximation
    (singular value decomposition), padded with zeros where it is wider. Worth seven
    points of STS against a random start.

    Args:
        model: Freshly built model; changed in place.
        config: Says which tables.
        word_embeddings: The teacher's rows for the student's tokens, ``[V, W]``, or
            none where there is no such table.
    """
    if word_embeddings is None or config.task == "flow":
        return
    encoder = config.encoder
    if encoder.embedding_init == "teacher":
        rank = getattr(encoder, "embedding_rank", 0)
        table, basis = _low_rank(word_embeddings, rank or encoder.dim)
        model.encoder.embedding.weight = mx.array(table)
        if rank:
            wide = np.zeros((encoder.dim, rank), np.float32)
            wide[: basis.shape[1]] = basis.T[: encoder.dim]
            model.encoder.embedding_projection.weight = mx.array(wide)
    if config.decoder.embedding_init == "teacher":
        table, _ = _low_rank(word_embeddings, config.decoder.dim)
        model.decoder.embedding.weight = mx.array(table)


def _low_rank(rows: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Table ``[V, width]`` and basis ``[width, W]``: table @ basis ~ scaled rows."""
    rows = np.asarray(rows, np.float32)
    rows = rows * (_TABLE_RMS / max(float(np.sqrt(np.mean(rows**2))), 1e-12))
    vocabulary, own = rows.shape
    if width == own:
        return rows, np.eye(own, dtype=np.float32)
    if width > own:
        table = np.zeros((vocabulary, width), np.float32)
        table[:, :own] = rows
        return table, np.eye(width, own, dtype=np.float32)
    _, _, basis = np.linalg.svd(rows, full_matrices=False)
    basis = basis[:width]
    return (rows @ basis.T).astype(np.float32), basis.astype(np.float32)
