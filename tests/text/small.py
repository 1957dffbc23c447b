"""Networks of any size from keywords; what a test does not name is off or plain."""

from energyflow_mlx.nn.tcn import TCNBlock
from energyflow_mlx.nn.transformer import LayerList, TransformerLayer
from energyflow_mlx.text.blocks import BlockList
from energyflow_mlx.text.decoder import TCNDecoder
from energyflow_mlx.text.encoder import TCNEncoder, TransformerEncoder

BLOCK = {"causal": True, "dropout": 0.0, "gelu": "exact"}
BLOCKS = BLOCK | {"kernel_size": 3, "dilations": (1, 2), "shared": 0, "context": False}
ENCODER = {"pooling": "mean", "embedding_rank": 0}
ENDS = {"token_dropout": 0.0, "output_tanh": False}
DECODER = {
    "conditioning": "additive",
    "coverage": True,
    "output_condition": True,
    "tied": False,
}
LAYERS = {"count": 2, "dropout": 0.0, "gelu": "exact"}


def split(options, *defaults):
    """Each group of defaults with its share of the options; none is left over."""
    known = {name for group in defaults for name in group}
    assert set(options) <= known, f"unknown: {set(options) - known}"
    return [g | {k: v for k, v in options.items() if k in g} for g in defaults]


def make_block(dim, hidden, kernel_size=3, dilation=1, **options):
    return TCNBlock(dim, hidden, kernel_size, dilation, **(BLOCK | options))


def make_layer(dim, heads, hidden, *, dropout=0.0, gelu="exact"):
    return TransformerLayer(dim, heads, hidden, dropout=dropout, gelu=gelu)


def make_blocks(dim, hidden, **options):
    return BlockList(dim, hidden, **(BLOCKS | options))


def make_encoder(vocab_size, output_dim, *, dim, hidden, **options):
    blocks, own = split(options, BLOCKS, ENCODER | ENDS)
    blocks = make_blocks(dim, hidden, **blocks)
    return TCNEncoder(vocab_size, output_dim, blocks, **own)


def make_transformer(vocab_size, output_dim, *, dim, heads, hidden, **options):
    layers, own = split(options, LAYERS, ENDS | {"max_length": 64})
    layers = LayerList(dim=dim, heads=heads, hidden=hidden, **layers)
    return TransformerEncoder(vocab_size, output_dim, layers, **own)


def make_decoder(vocab_size, latent_dim, *, dim, hidden, **options):
    blocks, own = split(options, BLOCKS, DECODER)
    blocks = make_blocks(dim, hidden, **blocks)
    return TCNDecoder(vocab_size, latent_dim, blocks, **own)
