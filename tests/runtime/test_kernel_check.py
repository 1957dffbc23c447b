"""The check of operations: sound ones agree, a wrong or refused one is named."""

import json
import sys
from functools import cache

import mlx.core as mx
import pytest

from energyflow_mlx import doctor
from energyflow_mlx.config import command_line as cli
from energyflow_mlx.ops import _backend, available, cases
from energyflow_mlx.runtime import diagnosis, kernel_check, native

pytestmark = pytest.mark.skipif(not available("cpu"), reason="no compiler")


@cache
def found():
    return {c.op: c for c in kernel_check.check_operations()}


def test_every_operation_with_a_form_of_its_own_is_checked_and_timed():
    here = {op for op in _backend._AUTO if _backend.resolve("auto", op) != "reference"}
    assert found().keys() == here
    for c in found().values():
        assert c.ok, c
        assert c.cases >= 3 and c.error <= c.tolerance
        assert c.ms > 0 and c.reference_ms > 0


def test_every_operation_has_cases():
    listed = {c.op for of in cases.CASES.values() for c in of([mx.float32])}
    assert listed == _backend._AUTO.keys()


@pytest.fixture
def one_operation(monkeypatch):
    """Check one operation alone, on a kernel that can be replaced."""

    def choose(op):
        chosen = {op: lambda dtypes: small(op, dtypes)}
        monkeypatch.setattr(kernel_check, "CASES", chosen)
        monkeypatch.setattr(diagnosis, "measure_matmul_rate", rate)

    def small(op, dtypes):
        return (c for c in cases.CASES[op](dtypes) if not c.is_large)

    def rate():
        return diagnosis.MatmulRate(mlx_gflops=90.0, numpy_gflops=100.0)

    return choose


def run_doctor(*words):
    try:
        cli.main(doctor.DoctorArgs, doctor.doctor, words)
    except SystemExit as end:
        return end.code
    return 0


def test_wrong_gradient_is_named_with_status_1_and_in_the_report(
    one_operation, monkeypatch, tmp_path, capsys
):
    one_operation("gelu")
    launch = native.launch

    def planted(name, *rest, **options):
        outputs = launch(name, *rest, **options)
        return [1.01 * y for y in outputs] if name == "gelu_backward" else outputs

    monkeypatch.setattr(native, "launch", planted)
    report = tmp_path / "sent.json"
    assert run_doctor("kernels", f"report={report}") == 1
    shown = capsys.readouterr().out
    assert "gelu, float32: wrong on" in shown and "agree" not in shown
    sent = json.loads(report.read_text())
    assert not sent["ok"] and not sent["operations"][0]["ok"]
    assert sent["operations"][0]["error"] > 1e-3


def test_kernel_that_does_not_run_is_a_finding(one_operation, monkeypatch, capsys):
    one_operation("gelu")

    def refused(*arguments, **options):
        raise RuntimeError("no such instruction\nin line 3")

    monkeypatch.setattr(native, "launch", refused)
    (c,) = kernel_check.check_operations()
    assert not c.ok and c.error == float("inf")
    assert c.worst.endswith(": no such instruction")


def test_report_has_machine_and_versions_and_no_paths(one_operation, tmp_path, capsys):
    one_operation("adamw")
    report = tmp_path / "doctor.json"
    assert run_doctor("kernels", f"report={report}", "json=true") == 0
    text = report.read_text()
    sent = json.loads(text)
    assert json.loads(capsys.readouterr().out) == sent
    assert sent["versions"]["mlx"] == mx.__version__
    assert sent["operations"][0]["op"] == "adamw" and sent["ok"]
    assert sys.prefix not in text and str(tmp_path) not in text


def test_report_that_is_no_json_is_refused_before_the_check(capsys):
    assert run_doctor("kernels", "report=sent.txt") == 2
    assert "ends in .json" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong",
    [mx.ones((2, 1)), mx.ones(2, mx.float16), mx.array([1.0, float("nan")])],
    ids=["shape", "dtype", "nan"],
)
def test_other_shapes_dtypes_and_numbers_are_infinitely_wrong(wrong):
    assert kernel_check.relative_errors([wrong], [mx.ones(2)]) == float("inf")


def test_error_is_relative_to_the_largest_value():
    error = kernel_check.relative_errors([mx.array([1.0, 4.4])], [mx.array([1.0, 4.0])])
    assert error == pytest.approx(0.1)
