"""Precompiled headers save g++ time and change nothing of what it makes."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest

from energyflow_mlx.runtime import jit_headers
from tests import conftest

SOURCE = f"""#include "{jit_headers.HEADER}"
extern "C" void f(float* x, float* y, int n) {{
  for (int i = 0; i < n; i++) y[i] = mlx::core::detail::Exp()(x[i]) * x[i];
}}
"""
EXPRESSION = "mx.eval(mx.compile(lambda x: x.exp() * x)(mx.ones(3)))"


@pytest.fixture
def header():
    path = jit_headers.precompile()
    if path is None:
        pytest.skip("mx.compile asks no g++ here")
    return path


def assembly(folder):
    """What g++ makes of a source in this folder, and the headers it opens for that."""
    (folder / "a.cpp").write_text(SOURCE, encoding="utf-8")
    include = Path(mx.__file__).parent / "include"
    done = subprocess.run(
        ["g++", *jit_headers.FLAGS, "-H", "-S", "-I", include, "a.cpp", "-o", "-"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout, re.findall(r"^[.!]+ (.*)$", done.stderr, re.M)


def test_a_precompiled_header_is_taken_and_changes_no_instruction(header, tmp_path):
    parsed_each_time, opened = assembly(tmp_path)
    assert len(opened) > 50
    beside = tmp_path / f"{jit_headers.HEADER}.gch" / "this_one"
    beside.parent.mkdir(parents=True)
    beside.symlink_to(header)
    parsed_once, opened = assembly(tmp_path)
    assert any(name.endswith(beside.name) for name in opened)
    assert parsed_once == parsed_each_time


def test_it_is_made_once(header):
    made = header.stat().st_mtime_ns
    assert jit_headers.precompile() == header
    assert header.stat().st_mtime_ns == made


def test_mlx_compiles_beside_it_with_the_same_flags(header, tmp_path, monkeypatch):
    tools, asked = tmp_path / "tools", tmp_path / "asked"
    tools.mkdir()
    compiler = tools / "g++"
    compiler.write_text(
        f'#!/bin/sh\necho "$@" >> {asked}\nexec {shutil.which("g++")} "$@"\n'
    )
    compiler.chmod(0o755)
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        [sys.executable, "-c", f"import energyflow_mlx, mlx.core as mx; {EXPRESSION}"],
        env=os.environ | {"TMPDIR": str(tmp_path), "PATH": path},
        check=True,
    )
    (compilation,) = (x for x in asked.read_text().splitlines() if "-shared" in x)
    given = [word for word in compilation.split() if word in jit_headers.FLAGS]
    assert given == list(jit_headers.FLAGS)
    others = re.findall(r" (-[fmOD]\S*)", " " + compilation)
    assert set(others) <= set(jit_headers.FLAGS)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert list(jit_headers.jit_folder().glob("*.cpp"))


def test_two_workers_of_a_run_compile_in_different_folders(tmp_path, monkeypatch):
    monkeypatch.setattr(conftest.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    folders = []
    for worker in ("gw0", "gw1"):
        monkeypatch.setenv("PYTEST_XDIST_WORKER", worker)
        conftest.separate_worker()
        folders.append(jit_headers.jit_folder())
    assert len({tmp_path, *folders}) == 3


def test_single_process_compiles_where_every_process_does(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    conftest.separate_worker()
    assert jit_headers.jit_folder().is_relative_to(tmp_path)


def run_expression(folder, program):
    """Expression in a process of its own; its messages."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout + done.stderr


PREPARED = f"""
import logging
logging.basicConfig(level=logging.INFO)
import energyflow_mlx, mlx.core as mx
from energyflow_mlx.runtime import jit_headers
jit_headers.prepare()
{EXPRESSION}
print(mx.compile(lambda x: x.exp() * x)(mx.zeros(3)).tolist())
"""


def test_a_folder_that_cannot_be_written_costs_time_only(header, tmp_path):
    """A file stands where the folder of the precompiled header would be."""
    place = tmp_path / "mlx" / mx.__version__ / "cpu" / f"{jit_headers.HEADER}.gch"
    place.parent.mkdir(parents=True)
    place.write_text("not a header")
    said = run_expression(tmp_path, PREPARED)
    assert "parsed each time" in said and "[0.0, 0.0, 0.0]" in said


def test_the_second_process_finds_what_the_first_one_made(header, tmp_path):
    assert "once" in run_expression(tmp_path, PREPARED)
    assert "once" not in run_expression(tmp_path, PREPARED)


def test_nothing_is_parsed_where_the_gpu_computes(monkeypatch):
    monkeypatch.setattr(jit_headers.mx, "default_device", lambda: mx.gpu)
    monkeypatch.setattr(jit_headers, "precompile", lambda: pytest.fail("parsed"))
    jit_headers.prepare()
