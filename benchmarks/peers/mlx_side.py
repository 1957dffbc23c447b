"""Our side as a process: what is trained here. Run by ``worker``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import energyflow_mlx  # noqa: F401  # isort: skip  before mlx: it brings the BLAS

import mlx.core as mx
import numpy as np

from benchmarks.peers.captions import encode_texts, load
from benchmarks.peers.mlx_encode import EncodeCase
from benchmarks.peers.mlx_lattice import LatticeCase
from benchmarks.peers.mlx_loop import LoopCase
from benchmarks.peers.mlx_updates import UpdateCase
from benchmarks.peers.settings import WHOLE_RUNS, Settings
from benchmarks.peers.worker import (
    Channel,
    calls_in,
    memory,
    serve,
    start_memory,
    timed,
)
from energyflow_mlx.runtime import blas, device


class MlxSide:
    """What can be asked of our side."""

    channel: Channel
    case: Any

    def begin(self, settings: dict) -> dict:
        """Choose the device; says what this side is."""
        self.settings = Settings(**settings)
        here = device.select("cpu" if self.settings.device == "cpu" else "auto")
        if self.settings.device == "gpu" and here.backend == "cpu":
            raise RuntimeError("MLX has no GPU here")
        return {
            "mlx": here.mlx_version,
            "device": here.name,
            "backend": here.backend,
            "blas": str(blas.info()),
        }

    def prepare(self, case: str, folder: str) -> dict:
        """Build a case; writes what the other side needs, and says what it is."""
        start_memory()
        settings, place = self.settings, Path(folder)
        if case.startswith("lattice"):
            trains = case == "lattice_train"
            self.case = LatticeCase(settings, place, trains=trains)
        elif case in WHOLE_RUNS:
            measures = case == "quality"
            self.case = LoopCase(settings, load(settings), place, measures=measures)
        elif case == "encode":
            settings = replace(settings, vocabulary=0)
            data = load(settings)
            self.case = EncodeCase(settings, data, encode_texts(settings), place)
        else:
            self.case = UpdateCase(settings, case, load(settings), place)
        return self.case.facts

    def agree(self, output: str) -> dict:
        """Loss and arrays to compare, those written to a file."""
        loss, arrays = self.case.agree()
        np.savez(output, **arrays)
        return {"loss": loss}

    def settle(self) -> dict:
        """How many calls make a sample; the first ones warm up."""
        self.count = calls_in(self.settings.seconds, self.case.call, mx.synchronize)
        mx.reset_peak_memory()
        return {"count": self.count}

    def sample(self) -> dict:
        """Time one sample, in ms a call."""
        seconds = timed(self.case.call, mx.synchronize, self.count)
        return {"ms": seconds / self.count * 1e3}

    def train(self) -> dict:
        """Train up to the next pause, where it answers, until told to stop."""
        self.case.run(self.channel.pause)
        return {"done": True}

    def stop(self) -> dict:
        """Nothing is being trained any more."""
        return {}

    def memory(self) -> dict:
        """Peak since ``prepare``: of the process, and as MLX counts its arrays."""
        return memory() | {"array_bytes": mx.get_peak_memory()}


if __name__ == "__main__":
    serve(MlxSide())
