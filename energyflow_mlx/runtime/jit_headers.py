"""The C++ headers that ``mx.compile`` includes on a CPU, parsed once for all programs.

MLX gives g++ one small source for each fused expression, and three quarters of the
time go into parsing the same headers again. g++ takes a precompiled form where it finds
one beside the source, under the included name; the machine code it makes is the same.
The folder is MLX's own and stays until the machine clears its temporary files, so this
costs its few seconds once, and a program that needs no new expression pays nothing.
"""

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import mlx.core as mx

from energyflow_mlx.runtime.device import CPU_JIT_COMPILER

logger = logging.getLogger(__name__)

HEADER = "mlx/backend/cpu/compiled_preamble.h"
# The flags MLX compiles with: g++ takes a precompiled header made with equal ones only.
FLAGS = ("-std=c++17", "-O3", "-Wall", "-fPIC")


def jit_folder() -> Path:
    """Where MLX writes the sources of fused expressions and what g++ makes of them."""
    return Path(os.environ.get("TMPDIR", "/tmp")) / "mlx" / mx.__version__ / "cpu"


def prepare() -> None:
    """Precompile where MLX computes on the CPU; call it before the first expression.

    A folder that cannot be written, or a compiler that fails, only costs time: each
    expression then parses the headers itself, as MLX does alone.
    """
    if mx.default_device() != mx.cpu:
        return
    try:
        precompile()
    except (OSError, subprocess.CalledProcessError) as error:
        logger.info("headers of fused expressions are parsed each time: %s", error)


def precompile() -> Path | None:
    """Parse the headers, unless that is done already.

    Processes that start together may each do it; a half-written header is never seen.

    Returns:
        The precompiled header; None where ``mx.compile`` asks no g++.
    """
    compiler = shutil.which(CPU_JIT_COMPILER)
    include = Path(mx.__file__).parent / "include"
    if sys.platform != "linux" or not compiler or not (include / HEADER).is_file():
        return None
    version = subprocess.run([compiler, "-v"], capture_output=True, check=True).stderr
    identity = version + " ".join([*FLAGS, str(include)]).encode()
    # A folder of this name may hold one form for each compiler.
    folder = jit_folder() / f"{HEADER}.gch"
    target = folder / hashlib.sha256(identity).hexdigest()[:16]
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    logger.info("parsing the headers of fused expressions, once")
    with tempfile.TemporaryDirectory(dir=jit_folder()) as scratch:
        source, built = Path(scratch, "all.h"), Path(scratch, "all.gch")
        source.write_text(f'#include "{HEADER}"\n', encoding="utf-8")
        places = ["-I", str(include), "-x", "c++-header", str(source), "-o", str(built)]
        subprocess.run([compiler, *FLAGS, *places], capture_output=True, check=True)
        built.replace(target)  # whole or not at all, whoever else builds it
    return target
