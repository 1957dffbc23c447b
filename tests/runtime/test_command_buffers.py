"""Portions of work for an NVIDIA GPU."""

import os
import subprocess
import sys

import pytest

from tests.commands import CHECKOUT


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has the CUDA build")
@pytest.mark.parametrize("given", [{}, {"MLX_MAX_OPS_PER_BUFFER": "7"}], ids=str)
def test_portions_are_set_before_mlx_starts_unless_the_user_says_so(given):
    code = "import os, energyflow_mlx; print(os.environ['MLX_MAX_OPS_PER_BUFFER'])"
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MLX_MAX_OPS")}
    command = [sys.executable, "-c", code]
    out = subprocess.check_output(command, env=kept | given, cwd=CHECKOUT, text=True)
    assert out.strip() == given.get("MLX_MAX_OPS_PER_BUFFER", "20")
