"""A trained model for others: ``python -m energyflow_mlx.export``.

    run=RUN output=FOLDER                        model, tokenizer, model card
    run=RUN output=FOLDER dtype=int8             the same, matrices in 8 bits
    run=RUN output=FOLDER format=onnx            its encoder as an ONNX graph
    run=RUN output=FOLDER format=sentence-transformers     the graph, for that library
    run=RUN output=F.safetensors dtype=float16   the weights of the best checkpoint
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
from typing import TYPE_CHECKING, Any

import numpy as np

from energyflow_mlx.config import command_line as cli
from energyflow_mlx.config.checks import as_paths
from energyflow_mlx.data.files import require_output, require_output_folder
from energyflow_mlx.errors import InputError
from energyflow_mlx.runs.dtypes import DTYPES, require_dtype
from energyflow_mlx.runtime.atomic import write_aside

if TYPE_CHECKING:
    import mlx.core as mx

    from energyflow_mlx.inference.formats.card import CardFacts

logger = logging.getLogger(__name__)

FORMATS = ("energyflow", "onnx", "sentence-transformers")
# The last layer of the encoder, whatever its family.
_PROJECTION = ("encoder.head.weight", "encoder.head.bias")


@dataclass
class ExportArgs:
    """Write a trained model for others, or bring a Swift file into named arrays."""

    output: str = field(
        default="???",
        metadata={"help": "folder, or .safetensors, .efck1, .efop1; from input .npz"},
    )
    run: str | None = field(default=None, metadata={"help": "run folder or export"})
    input: str | None = field(
        default=None, metadata={"help": ".efck1 or .efop1 file, in place of run"}
    )
    format: str = field(
        default="energyflow", metadata={"help": f"{', '.join(FORMATS)}; of a folder"}
    )
    dtype: str = field(
        default="float32", metadata={"help": f"{', '.join(DTYPES)}; of the weights"}
    )
    name: str | None = field(
        default=None, metadata={"help": "title of the model card; by default the run's"}
    )
    license: str = field(
        default="unknown", metadata={"help": "license as the hub spells it, say mit"}
    )
    language: str = field(
        default="en", metadata={"help": "code of the sentences' language"}
    )
    datasets: Any = field(
        default=None, metadata={"help": "training sets on the hub: [user/name]"}
    )


def export(args: ExportArgs) -> None:
    """Run the command; see the module.

    Raises:
        InputError: An argument, the run or the input is wrong; nothing was written.
        DiskError: The output cannot be written; nothing of it stays.
    """
    writers = {"run": _FROM_RUN, "input": _FROM_FILE}
    given = [name for name in writers if getattr(args, name) is not None]
    if len(given) != 1:
        raise InputError("[export] either run=PATH or input=FILE must be given.")
    suffix = Path(args.output).suffix
    is_folder = given == ["run"] and suffix not in _FROM_RUN.keys() | _FROM_FILE.keys()
    writer = _write_folder if is_folder else writers[given[0]].get(suffix)
    if writer is None:
        raise InputError(
            f"[export] output must end in {' or '.join(writers[given[0]])} with "
            f"{given[0]}=, got {args.output}."
        )
    _check(args, suffix, is_folder=is_folder)
    if is_folder:
        require_output_folder(args.output)
    else:
        require_output(args.output, suffix, args.input)
    writer(args)
    logger.info("wrote %s, %d bytes", args.output, _size(Path(args.output)))


def _check(args: ExportArgs, suffix: str, *, is_folder: bool) -> None:
    """Refuse settings that the output has no use for."""
    require_dtype(args.dtype)
    if args.format not in FORMATS:
        raise InputError(
            f"[export] format must be one of {', '.join(FORMATS)}, got {args.format}."
        )
    if args.format != "energyflow" and not is_folder:
        raise InputError(
            f"[export] output must be a folder with format={args.format}, got "
            f"{args.output}."
        )
    is_whole = is_folder and args.format == "energyflow"
    is_weights = args.run is not None and suffix == ".safetensors"
    if args.dtype != "float32" and not (is_whole or is_weights):
        raise InputError(
            "[export] dtype must be float32 but for a run's .safetensors or its "
            f"energyflow folder, got {args.dtype}."
        )


def _size(path: Path) -> int:
    """Bytes of a file, or of the files in a folder."""
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)


# A folder ----------------------------------------------------------------------------


def _write_folder(args: ExportArgs) -> None:
    from energyflow_mlx.build.codec import load
    from energyflow_mlx.inference.formats import onnx_folder

    assert args.run is not None
    codec, facts, output = load(args.run), _facts(args), Path(args.output)
    if args.format == "energyflow":
        codec.save_pretrained(output, dtype=args.dtype, facts=facts)
    else:
        is_for_library = args.format == "sentence-transformers"
        onnx_folder.write(
            output, codec.as_pretrained(), facts, with_modules=is_for_library
        )


def _facts(args: ExportArgs) -> "CardFacts":
    """What the user says of the model, and the figures that its run folder holds."""
    from energyflow_mlx.inference.formats.card import CardFacts
    from energyflow_mlx.runs.folder import RunFolder

    assert args.run is not None
    folder = RunFolder(Path(args.run))
    return CardFacts(
        name=args.name,
        language=args.language,
        license=args.license,
        datasets=as_paths(args.datasets, "datasets"),
        spearman=folder.read_evaluation().get("spearman", {}),
        held_out=folder.read_summary().get("final", {}),
    )


# A run's weights ---------------------------------------------------------------------


def _write_weights(args: ExportArgs) -> None:
    from energyflow_mlx.inference.formats.folder import require_measured
    from energyflow_mlx.runs.weights import save_as

    weights = _best(args, "model")
    require_measured({name.partition(".")[0] for name in weights}, args.dtype)
    save_as(Path(args.output), weights, args.dtype)


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
    if f"{_PROJECTION[0]}.v" not in state:
        raise InputError(
            f"[export] {args.run} must have been trained by optimizer.kind=adamw, "
            "got muon: it keeps no second moments."
        )
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
