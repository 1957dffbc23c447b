"""The other side: the PyTorch twin, run by ``worker``; needs PyTorch and NumPy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.peers import torch_encode, torch_lattice
from benchmarks.peers.settings import WHOLE_RUNS, Settings
from benchmarks.peers.torch_loop import LoopCase
from benchmarks.peers.torch_training import Variant, default_of, worth_trying
from benchmarks.peers.torch_updates import UpdateCase
from benchmarks.peers.worker import (
    Channel,
    calls_in,
    memory,
    serve,
    start_memory,
    timed,
)


class TorchSide:
    """What can be asked of the twin."""

    channel: Channel
    case: Any

    def begin(self, settings: dict) -> dict:
        """Choose the device; says what this side is."""
        self.settings = Settings(**settings)
        self._built: dict[str, Any] = {}
        self.device = "cpu" if self.settings.device == "cpu" else "cuda"
        torch.set_num_threads(self.settings.threads)
        # MLX multiplies float32 as TF32 on NVIDIA GPUs too.
        is_gpu = self.device == "cuda"
        torch.set_float32_matmul_precision("high" if is_gpu else "highest")
        facts: dict[str, Any] = {
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "loop_variant": default_of(self.device, self.settings.precision).name,
        }
        if self.device == "cuda":
            facts["device"] = torch.cuda.get_device_name()
        return facts

    def variants(self, case: str) -> dict:
        """Forms to choose from."""
        if self.settings.variants:
            return {"variants": self.settings.variants.split(",")}
        precision = self.settings.precision
        if case.startswith("lattice"):
            return {"variants": torch_lattice.worth_trying(self.device, precision)}
        if case == "encode":
            return {"variants": torch_encode.worth_trying(precision)}
        return {"variants": [v.name for v in worth_trying(self.device, precision)]}

    def prepare(
        self, case: str, folder: str, variant: str, facts: dict[str, Any]
    ) -> dict:
        """Build a case in one form from what our side wrote; forms built stay."""
        start_memory()
        self.case = self._build(case, Path(folder), variant, facts)
        self._built[variant] = self.case
        return {}

    def _build(self, case: str, folder: Path, variant: str, facts: dict) -> Any:
        device, trains = self.device, case == "lattice_train"
        if case.startswith("lattice"):
            return torch_lattice.LatticeCase(
                folder, facts, variant, device, trains=trains
            )
        if case == "encode":
            return torch_encode.EncodeCase(folder, variant, device)
        form = Variant.parse(variant)
        if case not in WHOLE_RUNS:
            return UpdateCase(folder, facts["objective"], form, device)
        measures = case == "quality"
        return LoopCase(folder, facts, self.settings, form, device, measures=measures)

    def agree(self, output: str) -> dict:
        """Loss and arrays to compare, those written to a file."""
        loss, arrays = self.case.agree()
        np.savez(output, **arrays)
        return {"loss": loss}

    def warm(self) -> dict:
        """Two calls: what must be compiled is."""
        timed(self.case.call, self.wait, 2)
        return {}

    def settle(self, variant: str) -> dict:
        """Take up a form that was built; how many calls make a sample."""
        self.case = self._built[variant]
        self.count = calls_in(self.settings.seconds, self.case.call, self.wait)
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        return {"count": self.count}

    @property
    def wait(self) -> Callable[[], Any]:
        """Returns when everything that was called is done."""
        return torch.cuda.synchronize if self.device == "cuda" else lambda: None

    def sample(self) -> dict:
        """Time one sample, in ms a call."""
        seconds = timed(self.case.call, self.wait, self.count)
        return {"ms": seconds / self.count * 1e3}

    def train(self) -> dict:
        """Train up to the next pause, where it answers, until told to stop."""
        self.case.run(self.channel.pause)
        return {"done": True}

    def stop(self) -> dict:
        """Nothing is being trained any more."""
        return {}

    def memory(self) -> dict:
        """Peak since ``prepare``: of the process, and of the GPU's arrays."""
        found = memory()
        if self.device == "cuda":
            found["array_bytes"] = torch.cuda.max_memory_allocated()
        return found


if __name__ == "__main__":
    serve(TorchSide())
