"""The package's own operations; models use these and nothing else for them."""

from energyflow_mlx.ops._backend import Backend, available, on_gpu, resolve
from energyflow_mlx.ops._lattice_cells import CellMode
from energyflow_mlx.ops.causal_im2col import causal_conv1d, causal_im2col
from energyflow_mlx.ops.covered_tokens import covered_tokens
from energyflow_mlx.ops.embedding import embedding, pack_rows
from energyflow_mlx.ops.even_columns import even_columns
from energyflow_mlx.ops.fast_math import fast_exp
from energyflow_mlx.ops.field_read import field_read
from energyflow_mlx.ops.field_write import field_write
from energyflow_mlx.ops.gelu import gelu
from energyflow_mlx.ops.gru_blend import gate_products, gru_blend
from energyflow_mlx.ops.lattice_readout import lattice_readout
from energyflow_mlx.ops.lattice_scatter import lattice_scatter
from energyflow_mlx.ops.layer_norm import layer_norm
from energyflow_mlx.ops.linear_cross_entropy import linear_cross_entropy
from energyflow_mlx.ops.masked_mean import masked_mean
from energyflow_mlx.ops.row_sums import linear
from energyflow_mlx.ops.tcn_block import tcn_block

__all__ = [
    "Backend",
    "CellMode",
    "available",
    "causal_conv1d",
    "causal_im2col",
    "covered_tokens",
    "embedding",
    "even_columns",
    "fast_exp",
    "field_read",
    "field_write",
    "gate_products",
    "gelu",
    "gru_blend",
    "lattice_readout",
    "lattice_scatter",
    "layer_norm",
    "linear",
    "linear_cross_entropy",
    "masked_mean",
    "on_gpu",
    "pack_rows",
    "resolve",
    "tcn_block",
]
