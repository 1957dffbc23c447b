"""Updates that are not finite: what was at fault, said in a line and kept in a file.

The device skips such an update on its own, see ``precision``. The host learns of it
with the update's values, when the next one is on its way; the state is still the one
before it. So the gradient is computed once more, to see what is not finite, and a run
that goes well pays nothing for the explanation.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from energyflow_mlx.config import Config
from energyflow_mlx.data.batching import Batch
from energyflow_mlx.readback import ReadbackEngine
from energyflow_mlx.runs.folder import RunFolder
from energyflow_mlx.runtime.atomic import write_text
from energyflow_mlx.runtime.distributed import Group
from energyflow_mlx.text.corrector import Guess
from energyflow_mlx.text.tokenizer import Tokenizer
from energyflow_mlx.training.precision import most_skipped
from energyflow_mlx.training.state import Progress
from energyflow_mlx.training.submitted import Contents, Submitted
from energyflow_mlx.training.update import Stepper

_MOST_SENTENCES = 256  # in a file
_MOST_NAMES = 4  # in a line
# Kinds of causes; the first one that is found explains those after it.
_KINDS = ("weight", "target", "guess", "loss", "gradient of")


class Diverged(FloatingPointError):
    """A run that cannot go on from here; one line that says why.

    Its weights are those before the update that is at fault.
    """


def not_finite(arrays: Mapping[str, mx.array], engine: ReadbackEngine) -> list[str]:
    """Names of the arrays that hold a number which is not finite.

    Args:
        arrays: By name; those of integers are finite.
        engine: Computes the answer.
    """
    names = [n for n, a in arrays.items() if mx.issubdtype(a.dtype, mx.floating)]
    flags = mx.stack([_has_bad(arrays[name]) for name in names])
    found = engine.defer("finite state", flags).value()
    return [name for name, is_bad in zip(names, found, strict=True) if is_bad]


def _has_bad(array: mx.array) -> mx.array:
    return mx.any(~mx.isfinite(array)).astype(mx.float32)


def listed(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def require_trained(progress: Progress, config: Config) -> None:
    """Refuse to call a run finished that skipped most of its updates.

    Raises:
        Diverged: More than half were skipped.
    """
    if progress.skipped * 2 > progress.step:
        raise Diverged(
            f"[train] at least half of the {progress.step} updates must be finite, got "
            f"{progress.skipped} skipped in {config.precision.dtype}; try "
            "precision=bf16 or precision=fp32, or lower learning rates."
        )


@dataclass(frozen=True)
class Inquiry:
    """Finds out what is not finite in an update.

    Attributes:
        config: The run's configuration.
        stepper: Has the state before the update.
        folder: The run's folder.
        tokenizer: Turns ids into sentences.
        group: The processes; each looks at its own part of the update.
    """

    config: Config
    stepper: Stepper
    folder: RunFolder
    tokenizer: Tokenizer
    group: Group

    def divergence(
        self,
        submitted: Submitted,
        values: Mapping[str, float],
        contents: Contents,
        progress: Progress,
    ) -> Diverged:
        """The error that ends a run, or sends it back; the sentences are written.

        Args:
            submitted: The update at fault.
            values: Its values.
            contents: What it was made of.
            progress: Of the run, this update counted.
        """
        name, step = submitted.objective, submitted.step
        causes = self._causes(submitted)
        path = self.folder.diverged / f"update_{step}.json"
        numbers = {key: values[key] for key in ("loss", "grad_norm")}
        if self.group.is_writer:
            facts = {"objective": name, "update": step, "not_finite": causes}
            facts |= {k: _plain(v) for k, v in numbers.items()}
            facts |= {"lr": submitted.lr, "made_of": contents.kind}
            facts |= self._sentences(contents.batch, contents.guess)
            text = json.dumps(facts, indent=1, ensure_ascii=False, allow_nan=False)
            write_text(path, text + "\n")
        key = next((k for k, v in numbers.items() if not math.isfinite(v)), "update")
        line = f"{key} of {name} update {step} must be finite, got {values.get(key)}"
        if progress.skipped_in_row > 1:
            line += f", the last of {progress.skipped_in_row} skipped in a row"
        saved = self.folder.steps()
        last = (
            f"newest checkpoint: update {saved[-1]}" if saved else "no checkpoint yet"
        )
        return Diverged(
            f"[train] {line}; not finite: {listed(causes) or 'the sum of its parts'}; "
            f"the weights are those before it, {last}; its sentences: {path}; "
            f"{self._advice(name, causes, progress)}."
        )

    def _causes(self, submitted: Submitted) -> list[str]:
        """What is not finite: weights, else targets, else the loss, else gradients."""
        stepper = self.stepper
        flags = {
            f"weight {path}": _has_bad(array)
            for path, array in stepper.state.parameters.items()
        }
        for batch, key in submitted.parts:
            found = stepper.micro_gradients(submitted.objective, batch, key)
            gradients = stepper.packing.split(found.gradients)
            own = {"target": batch.target, "loss": found.loss}
            own |= {} if batch.guess is None else {"guess": batch.guess.vector}
            # Its squares are added up: they have to be finite too.
            squares = {path: mx.square(g) for path, g in gradients.items()}
            own |= {f"gradient of {path}": square for path, square in squares.items()}
            for name, array in own.items():
                flags[name] = flags.get(name, mx.array(0.0)) + _has_bad(array)
        (summed,) = self.group.sum([mx.stack(list(flags.values()))])
        counts = stepper.engine.defer("what is not finite", summed).value()
        bad = [name for name, n in zip(flags, counts, strict=True) if n > 0]
        by_kind = ([n for n in bad if n.startswith(kind)] for kind in _KINDS)
        return next((names for names in by_kind if names), [])

    def _sentences(self, batch: Batch, guess: Guess | None) -> dict[str, Any]:
        """Text, ids and length of the target of each, the worst targets first.

        Beside them what was guessed, where anything was.
        """
        norms = np.linalg.norm(batch.target.astype(np.float64), axis=1)
        worst = np.argsort(np.isfinite(norms), kind="stable")[:_MOST_SENTENCES]
        rows = [batch.ids[i][batch.mask[i] > 0] for i in worst]
        texts, lengths = self.tokenizer.decode(rows), map(float, norms[worst])
        sentences = [
            {"text": text, "ids": list(map(int, row)), "target_norm": _plain(length)}
            for text, row, length in zip(texts, rows, lengths, strict=True)
        ]
        if guess is not None:
            read = [guess.ids[i][guess.mask[i] > 0] for i in worst]
            for sentence, text in zip(
                sentences, self.tokenizer.decode(read), strict=True
            ):
                sentence["guess"] = text
        return {"sentences": sentences, "left_out": len(norms) - len(worst)}

    def _advice(self, name: str, causes: list[str], progress: Progress) -> str:
        kind = causes[0].partition(" ")[0] if causes else ""
        if kind == "weight":
            return "start from another checkpoint"
        if kind == "target":
            return "mend the vectors of these sentences"
        tried = [f"a lower objectives.{name}.lr"]
        if most_skipped(self.config) > 1:
            tried.append("precision=bf16")
        if self.config.trainer.on_divergence == "stop":
            tried.append("trainer.on_divergence=rollback")
        done = f"after {progress.rollbacks} rollbacks " if progress.rollbacks else ""
        return f"{done}try {' or '.join(tried)}"


def _plain(value: float) -> float | str:
    """A number as JSON has it: one that is not finite is written as text."""
    return value if math.isfinite(value) else str(value)
