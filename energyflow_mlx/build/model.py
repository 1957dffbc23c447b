"""The only place where config becomes models: typed, greppable, no names in files."""

from collections.abc import Collection
from dataclasses import replace

import mlx.core as mx
import numpy as np

from energyflow_mlx.config import (
    Config,
    DecoderConfig,
    TcnEncoderConfig,
    TransformerEncoderConfig,
)
from energyflow_mlx.lattice import EnergyLattice
from energyflow_mlx.model import EnergyFlow, LatticeFlow
from energyflow_mlx.nn.transformer import LayerList
from energyflow_mlx.text.blocks import BlockList
from energyflow_mlx.text.corrector import DILATIONS, Corrector
from energyflow_mlx.text.decoder import TCNDecoder
from energyflow_mlx.text.encoder import TCNEncoder, TransformerEncoder

# Token features of this rms keep the first layer norm and the residual stream in
# balance; the teacher's own word embeddings are about ten times smaller.
_TABLE_RMS = 0.5

PARTS = {"lattice", "shared", "encoder", "decoder", "corrector"}


def build_encoder(
    config: Config, vocab_size: int, output_dim: int, *, is_bounded: bool
) -> TCNEncoder | TransformerEncoder:
    """Encoder of the configured family.

    Args:
        config: The run's configuration.
        vocab_size: Number of student tokens V.
        output_dim: Width of its outputs ``[B, output_dim]``.
        is_bounded: Whether they pass a tanh even where the configuration asks none.
    """
    encoder = config.encoder
    output_tanh = encoder.output_tanh or is_bounded
    if isinstance(encoder, TcnEncoderConfig):
        return TCNEncoder(
            vocab_size,
            output_dim,
            _blocks(config, encoder, causal=encoder.causal, context=encoder.context),
            pooling=encoder.pooling,
            embedding_rank=encoder.embedding_rank,
            token_dropout=encoder.token_dropout,
            output_tanh=output_tanh,
        )
    assert isinstance(encoder, TransformerEncoderConfig)
    layers = LayerList(
        count=encoder.layers,
        dim=encoder.dim,
        heads=encoder.heads,
        hidden=encoder.hidden,
        dropout=encoder.dropout,
        gelu=encoder.gelu,
    )
    return TransformerEncoder(
        vocab_size,
        output_dim,
        layers,
        max_length=encoder.max_positions,
        token_dropout=encoder.token_dropout,
        output_tanh=output_tanh,
    )


def build_decoder(config: Config, vocab_size: int, dimension: int) -> TCNDecoder:
    """Decoder from vectors ``[B, dimension]``."""
    decoder = config.decoder
    return TCNDecoder(
        vocab_size,
        dimension,
        _blocks(config, decoder, causal=True),
        conditioning=decoder.conditioning,
        coverage=decoder.coverage,
        output_condition=decoder.output_condition,
        tied=decoder.tied,
    )


def build_corrector(config: Config, dimension: int) -> Corrector:
    """What reads guesses for the decoder, at the decoder's widths."""
    decoder = config.decoder
    blocks = replace(
        _blocks(config, decoder, causal=False), dilations=DILATIONS, shared=0
    )
    films = len(decoder.dilations) if decoder.conditioning == "film" else 0
    return Corrector(dimension, blocks, films=films)


def _blocks(
    config: Config,
    part: TcnEncoderConfig | DecoderConfig,
    *,
    causal: bool,
    context: bool = False,
) -> BlockList:
    """Blocks of encoder or decoder, cut where the configuration shares them."""
    return BlockList(
        dim=part.dim,
        hidden=part.hidden,
        kernel_size=part.kernel_size,
        dilations=part.dilations,
        causal=causal,
        dropout=part.dropout,
        gelu=part.gelu,
        shared=config.shared_blocks,
        context=context,
    )


def build_model(
    config: Config, parts: Collection[str], vocab_size: int, dimension: int
) -> EnergyFlow:
    """The whole model, drawn from ``config.seed``.

    In front of a lattice the encoder's outputs are surfaces ``[B, S]``, bounded by
    tanh.

    Args:
        config: The run's configuration.
        parts: What to build of ``PARTS``.
        vocab_size: Number of student tokens V.
        dimension: Size E of the teacher's vectors.

    Raises:
        ValueError: A part is unknown, or its settings are missing.
    """
    unknown = set(parts) - PARTS
    if unknown:
        raise ValueError(f"[build_model] unknown parts {sorted(unknown)}.")
    mx.random.seed(config.seed)
    # The order of the draws: lattice, shared blocks, encoder, decoder, corrector.
    lattice, output_dim = None, dimension
    if "lattice" in parts:
        if config.lattice is None:
            raise ValueError("[build_model] lattice must be configured, got none.")
        lattice = EnergyLattice(config.lattice, dimension)
        output_dim = config.lattice.surface_size
    shared, encoder, decoder, corrector = [], None, None, None
    if "shared" in parts:
        shared = _blocks(config, config.decoder, causal=True).build_shared()
    if "encoder" in parts:
        is_bounded = lattice is not None
        encoder = build_encoder(config, vocab_size, output_dim, is_bounded=is_bounded)
    if "decoder" in parts:
        decoder = build_decoder(config, vocab_size, dimension)
    if "corrector" in parts:
        corrector = build_corrector(config, dimension)
    if lattice is None:
        return EnergyFlow(encoder, decoder, shared, corrector)
    return LatticeFlow(encoder, decoder, shared, lattice, corrector)


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
    if word_embeddings is None:
        return
    encoder, decoder = config.encoder, config.decoder
    if "encoder" in model and encoder.embedding_init == "teacher":
        rank = getattr(encoder, "embedding_rank", 0)
        table, basis = _low_rank(word_embeddings, rank or encoder.dim)
        model.encoder.embedding.weight = mx.array(table)
        if rank:
            wide = np.zeros((encoder.dim, rank), np.float32)
            wide[: basis.shape[1]] = basis.T[: encoder.dim]
            model.encoder.embedding_projection.weight = mx.array(wide)
    if "decoder" in model and decoder.embedding_init == "teacher":
        table, _ = _low_rank(word_embeddings, decoder.dim)
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
