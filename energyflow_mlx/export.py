"""Weights of a run as files for others: ``python -m energyflow_mlx.export``.

    run=RUN output=F.safetensors dtype=float16   every weight of the best checkpoint
    run=RUN output=F.safetensors dtype=int8      its encoder alone, matrices in 8 bits
    run=RUN output=F.efck1                       the encoder's projection
    run=RUN output=F.efop1                       its AdamW moments
    input=F.efck1 output=F.npz                   back: weight, bias; or .safetensors
    input=F.efop1 output=F.npz                   back: step, first.N, second.N

EFCK1 and EFOP1 are the files of the Swift reference trainer, see ``runs.swift_files``.
The output appears whole or not at all.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from energyflow_mlx.config import command_line as cli
from energyflow_mlx.errors import InputError
from energyflow_mlx.runtime.atomic import write_aside

if TYPE_CHECKING:
    import mlx.core as mx

logger = logging.getLogger(__name__)

DTYPES = ("float32", "float16", "bfloat16", "int8")
# The last layer of the encoder, whatever its family.
_PROJECTION = ("encoder.head.weight", "encoder.head.bias")


@dataclass
class ExportArgs:
    """Write a run's weights for others, or bring a Swift file into named arrays."""

    output: str = field(
        default="???",
        metadata={"help": ".safetensors, .efck1, .efop1; from input also .npz"},
    )
    run: str | None = field(default=None, metadata={"help": "run folder"})
    input: str | None = field(
        default=None, metadata={"help": ".efck1 or .efop1 file, in place of run"}
    )
    dtype: str = field(
        default="float32",
        metadata={"help": f"{', '.join(DTYPES)}; of the weights in .safetensors"},
    )


def export(args: ExportArgs) -> None:
    """Run the command; see the module.

    Raises:
        InputError: An argument, the run or the input is wrong; nothing was written.
    """
    writers = {"run": _FROM_RUN, "input": _FROM_FILE}
    given = [name for name in writers if getattr(args, name) is not None]
    if len(given) != 1:
        raise InputError("[export] either run=PATH or input=FILE must be given.")
    suffix = Path(args.output).suffix
    if suffix not in writers[given[0]]:
        raise InputError(
            f"[export] output must end in {' or '.join(writers[given[0]])} with "
            f"{given[0]}=, got {args.output}."
        )
    _check_dtype(args, suffix)
    try:
        writers[given[0]][suffix](args)
    except OSError as error:
        raise InputError(f"[export] {args.output}: not written: {error}.") from error
    logger.info("wrote %s, %d bytes", args.output, Path(args.output).stat().st_size)


def _check_dtype(args: ExportArgs, suffix: str) -> None:
    if args.dtype not in DTYPES:
        raise InputError(
            f"[export] dtype must be one of {', '.join(DTYPES)}, got {args.dtype}."
        )
    if args.dtype != "float32" and (args.run is None or suffix != ".safetensors"):
        raise InputError(
            "[export] dtype must be float32 but for a run's .safetensors, "
            f"got {args.dtype}."
        )


# A run's weights ---------------------------------------------------------------------


def _write_weights(args: ExportArgs) -> None:
    import mlx.core as mx

    from energyflow_mlx.runs.weights import save_quantized, save_weights

    weights = _best(args, "model")
    if args.dtype == "int8":
        save_quantized(Path(args.output), _encoder_alone(args, weights))
        return
    save_weights(Path(args.output), weights, getattr(mx, args.dtype))


def _encoder_alone(
    args: ExportArgs, weights: "dict[str, mx.array]"
) -> "dict[str, mx.array]":
    """Weights that encoding reads: what 8 bits were measured on."""
    parts = {name.partition(".")[0] for name in weights}
    known = {"encoder", "decoder", "shared"}
    if "encoder" not in parts or parts - known:
        raise InputError(
            f"[export] {args.run} must have a text encoder, and beside it at most a "
            f"decoder, for dtype=int8, got {', '.join(sorted(parts))}."
        )
    return {
        name: array
        for name, array in weights.items()
        if name.startswith(("encoder.", "shared."))
    }


def _write_projection(args: ExportArgs) -> None:
    from energyflow_mlx.runs.swift_files import write_efck1

    weights = _best(args, "model")
    if _PROJECTION[0] not in weights:
        raise InputError(f"[export] {args.run} must have a text encoder, got none.")
    weight, bias = (np.array(weights[name]) for name in _PROJECTION)
    write_efck1(Path(args.output), weight, bias)


def _write_moments(args: ExportArgs) -> None:
    from energyflow_mlx.runs.swift_files import write_efop1

    state = _best(args, "optimizer")
    if f"{_PROJECTION[0]}.m" not in state:
        raise InputError(f"[export] {args.run} must have trained an encoder.")
    moments = [
        (np.array(state[f"{name}.m"]), np.array(state[f"{name}.v"]))
        for name in _PROJECTION
    ]
    step = int(np.array(state[f"{_PROJECTION[0]}.t"]))
    write_efop1(Path(args.output), step, moments)


def _best(args: ExportArgs, group: str) -> "dict[str, mx.array]":
    """Arrays of a group of the best checkpoint, by the names within the group."""
    from energyflow_mlx.runs import checkpoint
    from energyflow_mlx.runs.folder import RunFolder

    assert args.run is not None
    folder = Path(args.run)
    if not folder.is_dir():
        raise InputError(f"[export] run folder {folder} does not exist.")
    checkpoints = RunFolder(folder).checkpoints
    best = checkpoint.load_best(checkpoints, (group,))
    if best is None:
        raise InputError(f"[export] no checkpoint in {checkpoints}.")
    return {name.partition(".")[2]: array for name, array in best.arrays.items()}


# Back from the reference trainer's files ---------------------------------------------


def _write_npz(args: ExportArgs) -> None:
    arrays = _read_swift(args)
    with write_aside(Path(args.output)) as aside:
        np.savez(aside, **arrays)  # type: ignore[arg-type]


def _write_safetensors(args: ExportArgs) -> None:
    import mlx.core as mx

    from energyflow_mlx.runs.weights import save_weights

    arrays = {name: mx.array(values) for name, values in _read_swift(args).items()}
    save_weights(Path(args.output), arrays, mx.float32)


def _read_swift(args: ExportArgs) -> dict[str, np.ndarray]:
    """Named arrays of an EFCK1 or EFOP1 file."""
    from energyflow_mlx.runs.swift_files import read_efck1, read_efop1

    assert args.input is not None
    path = Path(args.input)
    if path.suffix == ".efck1":
        layer = read_efck1(path)
        bias = {} if layer.bias is None else {"bias": layer.bias}
        return {"weight": layer.weight} | bias
    if path.suffix != ".efop1":
        raise InputError(f"[export] input must end in .efck1 or .efop1, got {path}.")
    state = read_efop1(path)
    arrays = {"step": np.array(state.step, np.uint32)}
    for number, (first, second) in enumerate(state.moments):
        arrays |= {f"first.{number}": first, f"second.{number}": second}
    return arrays


_Writer = Callable[[ExportArgs], None]
_FROM_RUN: dict[str, _Writer] = {
    ".safetensors": _write_weights,
    ".efck1": _write_projection,
    ".efop1": _write_moments,
}
_FROM_FILE: dict[str, _Writer] = {
    ".npz": _write_npz,
    ".safetensors": _write_safetensors,
}


def main() -> None:
    """Command line; see the module."""
    cli.main(ExportArgs, export, level=logging.INFO)


if __name__ == "__main__":
    main()
