"""Config of tokenizer, encoder and decoder: types, ranges, meaning.

Source: the reference trainer's fields (dimension, hidden width, kernel size,
dilation schedule, vocabulary), extended by the options of this project.
"""

from dataclasses import dataclass, field

from energyflow_mlx.config.checks import (
    COUNT,
    WIDTH,
    require,
    require_choice,
    require_range,
    require_share,
)

GELU_FORMS = ("exact", "tanh")
_REACH = 4096  # tokens
_MOST_BLOCKS = 64
_MOST_PIECES = 2**20  # of a vocabulary


def _check_stack(key: str, dilations: list[int], kernel_size: int) -> None:
    require(len(dilations) >= 1, f"{key}.dilations", "non-empty", dilations)
    most = len(dilations) <= _MOST_BLOCKS
    require(most, f"{key}.dilations", f"at most {_MOST_BLOCKS}", len(dilations))
    reach = min(dilations) >= 1 and max(dilations) <= _REACH
    require(reach, f"{key}.dilations", f"all >= 1 and <= {_REACH}", dilations)
    require_range(kernel_size, f"{key}.kernel_size", 1, _REACH)


@dataclass
class TokenizerConfig:
    """How text becomes token ids.

    Attributes:
        kind: ``wordpiece`` (the teacher's, cut to the corpus) or ``bpe`` (own).
        min_count: Keep a piece of the teacher's vocabulary when the training
            text needs it this often; rarer ones are spelt with shorter pieces.
        full_vocabulary: Keep the teacher's whole vocabulary instead of cutting.
        bpe_size: Vocabulary size of the own BPE.
    """

    kind: str = "wordpiece"
    min_count: int = 1
    full_vocabulary: bool = False
    bpe_size: int = 8192

    def __post_init__(self) -> None:
        """Check ranges."""
        require_choice(self.kind, "tokenizer.kind", ("wordpiece", "bpe"))
        require_range(self.min_count, "tokenizer.min_count", 1)
        require_range(self.bpe_size, "tokenizer.bpe_size", 300, _MOST_PIECES)


@dataclass
class EncoderConfig:
    """What every encoder family has in common.

    Attributes:
        family: ``tcn`` or ``transformer``.
        dim: Token feature width D.
        hidden: Inner width H of a block.
        dropout: Dropout probability inside the blocks.
        token_dropout: Share of tokens hidden in training, [0, 1).
        output_tanh: Bound the output by tanh.
        embedding_init: ``teacher`` starts the token table from the teacher's word
            embeddings, ``normal`` from N(0, 0.02^2).
        gelu: ``exact`` (erf) or ``tanh``.
    """

    family: str = "tcn"
    dim: int = 384
    hidden: int = 512
    dropout: float = 0.0
    token_dropout: float = 0.0
    output_tanh: bool = False
    embedding_init: str = "teacher"
    gelu: str = "exact"

    @property
    def longest(self) -> int:
        """Most tokens of a sentence that it can read."""
        return COUNT

    def __post_init__(self) -> None:
        """Check ranges."""
        require_choice(self.family, "encoder.family", ("tcn", "transformer"))
        require_range(self.dim, "encoder.dim", 1, WIDTH)
        require_range(self.hidden, "encoder.hidden", 1, WIDTH)
        require_share(self.dropout, "encoder.dropout")
        require_share(self.token_dropout, "encoder.token_dropout")
        require_choice(
            self.embedding_init, "encoder.embedding_init", ("teacher", "normal")
        )
        require_choice(self.gelu, "encoder.gelu", GELU_FORMS)


@dataclass
class TcnEncoderConfig(EncoderConfig):
    """Temporal convolution encoder.

    Attributes:
        kernel_size: Taps K of each block's first convolution.
        dilations: One dilation per block; the number of blocks follows.
        causal: Look at earlier tokens only (blocks shared with the decoder
            always do).
        context: Tell each token what the whole sentence says so far, after each block
            of the encoder's own but the last of all; needs ``causal: false``.
        pooling: ``mean`` over real tokens, or ``gated`` (learned weights).
        embedding_rank: Factorise the token table to this rank; 0 = full width.
    """

    kernel_size: int = 3
    dilations: list[int] = field(default_factory=lambda: [1, 2])
    causal: bool = True
    context: bool = False
    pooling: str = "mean"
    embedding_rank: int = 0

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        _check_stack("encoder", self.dilations, self.kernel_size)
        require(
            not (self.causal and self.context),
            "encoder.causal",
            "false, because encoder.context tells tokens of later ones",
            self.causal,
        )
        require_choice(self.pooling, "encoder.pooling", ("mean", "gated"))
        require(
            0 <= self.embedding_rank <= self.dim,
            "encoder.embedding_rank",
            f"in [0, dim = {self.dim}]",
            self.embedding_rank,
        )


@dataclass
class TransformerEncoderConfig(EncoderConfig):
    """Small Transformer encoder, the attention baseline.

    Attributes:
        layers: Number of encoder layers.
        heads: Attention heads; must divide ``dim``.
        max_positions: Rows of the (trainable, sinusoidal at start) position table.
    """

    dim: int = 256
    dropout: float = 0.1
    family: str = "transformer"
    layers: int = 2
    heads: int = 8
    max_positions: int = 512

    @property
    def longest(self) -> int:
        """Most tokens of a sentence that it can read."""
        return self.max_positions

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        require_range(self.layers, "encoder.layers", 1, _MOST_BLOCKS)
        require(
            self.heads >= 1 and self.dim % self.heads == 0,
            "encoder.heads",
            f"a divisor of dim = {self.dim}",
            self.heads,
        )
        require_range(self.max_positions, "encoder.max_positions", 8, _MOST_PIECES)


@dataclass
class DecoderConfig:
    """Temporal convolution decoder, conditioned on one vector.

    Attributes:
        dim: Token feature width D.
        hidden: Inner width H of a block.
        kernel_size: Taps K of each block's first convolution.
        dilations: One dilation per block; the number of blocks follows.
        conditioning: ``additive`` (once, at the input) or ``film`` (per block too).
        coverage: Add a running sum of the tokens so far at the input.
        output_condition: Add the vector before the output projection too.
        tied: Output weights = token table.
        dropout: Dropout probability inside the blocks.
        corrector: Have a part that reads guesses, which ``objectives.correction``
            trains; it has three blocks of the decoder's widths.
        embedding_init: As for the encoder.
        gelu: ``exact`` (erf) or ``tanh``.
    """

    dim: int = 384
    hidden: int = 512
    kernel_size: int = 3
    dilations: list[int] = field(default_factory=lambda: [1, 2])
    conditioning: str = "film"
    coverage: bool = True
    output_condition: bool = True
    tied: bool = False
    corrector: bool = False
    dropout: float = 0.0
    embedding_init: str = "teacher"
    gelu: str = "exact"

    def __post_init__(self) -> None:
        """Check ranges."""
        require_range(self.dim, "decoder.dim", 1, WIDTH)
        require_range(self.hidden, "decoder.hidden", 1, WIDTH)
        _check_stack("decoder", self.dilations, self.kernel_size)
        require_choice(self.conditioning, "decoder.conditioning", ("additive", "film"))
        require_share(self.dropout, "decoder.dropout")
        require(
            not self.corrector or self.kernel_size % 2 == 1,
            "decoder.kernel_size",
            "odd, because decoder.corrector reads both sides of a token",
            self.kernel_size,
        )
        require_choice(
            self.embedding_init, "decoder.embedding_init", ("teacher", "normal")
        )
        require_choice(self.gelu, "decoder.gelu", GELU_FORMS)
