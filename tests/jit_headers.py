"""The C++ headers that ``mx.compile`` includes on a CPU, parsed once for a whole run.

MLX gives g++ one small source for each fused expression, and three quarters of the
time go into parsing the same headers again. g++ takes a precompiled form where it finds
one beside the source, under the included name; the machine code it makes is the same.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import mlx.core as mx

HEADER = "mlx/backend/cpu/compiled_preamble.h"
# The flags MLX compiles with: g++ takes a precompiled header made with equal ones only.
FLAGS = ("-std=c++17", "-O3", "-Wall", "-fPIC")


def jit_folder() -> Path:
    """Where MLX writes the sources of fused expressions and what g++ makes of them."""
    return Path(os.environ.get("TMPDIR", "/tmp")) / "mlx" / mx.__version__ / "cpu"


def separate_worker() -> None:
    """Give a worker of pytest-xdist a folder of its own for fused expressions.

    MLX writes a library in place: a process that finds it half-written loads that.
    What Python calls the temporary folder stays, so that workers share the rest.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is not None:
        shared = tempfile.gettempdir()  # Python remembers this answer
        folder = Path(shared, f"energyflow_mlx_tests_{os.getuid()}", worker)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.environ["TMPDIR"] = str(folder)


def precompile() -> Path | None:
    """Parse the headers, unless that is done already.

    Returns:
        The precompiled header; None where ``mx.compile`` asks no g++.
    """
    compiler = shutil.which("g++")
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
    with tempfile.TemporaryDirectory(dir=jit_folder()) as scratch:
        source, built = Path(scratch, "all.h"), Path(scratch, "all.gch")
        source.write_text(f'#include "{HEADER}"\n', encoding="utf-8")
        command = [compiler, *FLAGS, "-I", include, "-x", "c++-header", source]
        subprocess.run([*command, "-o", built], capture_output=True, check=True)
        built.replace(target)  # whole or not at all, whoever else builds it
    return target
