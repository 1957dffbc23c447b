"""The command ``energyflow``: its list, its help, its hints, what it imports."""

import subprocess
import sys

import pytest

import energyflow_mlx
from energyflow_mlx import __main__ as command
from energyflow_mlx.config.store import CONF_FOLDER
from tests.commands import CHECKOUT
from tests.test_rooms import ENTRY_POINTS


def run(*words):
    """A finished ``python -m energyflow_mlx WORDS``."""
    return subprocess.run(
        [sys.executable, "-m", "energyflow_mlx", *words],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=120,
    )


def call(monkeypatch, *words, program="energyflow"):
    monkeypatch.setattr(sys, "argv", [program, *words])
    try:
        command.main()
    except SystemExit as end:
        return end.code
    return 0


def test_every_entry_point_is_a_command():
    modules = {name.replace("-", "_") for name in command.COMMANDS}
    assert modules == ENTRY_POINTS - {"__init__", "__main__"}


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",), ("help",)], ids=str)
def test_help_lists_every_command_with_one_line(monkeypatch, capsys, words):
    assert call(monkeypatch, *words) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("usage: energyflow COMMAND")
    for name, what in command.COMMANDS.items():
        assert f"  {name} " in shown and what in shown
    assert max(map(len, shown.splitlines())) <= 88


def test_version_is_the_one_of_the_package(monkeypatch, capsys):
    assert call(monkeypatch, "--version") == 0
    assert capsys.readouterr().out.split()[1] == energyflow_mlx.__version__


@pytest.mark.parametrize("name", command.COMMANDS)
def test_help_of_a_command_says_how_it_was_typed(monkeypatch, capsys, name):
    assert call(monkeypatch, name, "--help") == 0
    first, *rest = capsys.readouterr().out.splitlines()
    assert first.startswith(f"usage: energyflow {name} ")
    assert any("A list is typed [a,b]" in line for line in rest)


def test_help_under_python_m_names_python_m():
    done = run("encode", "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: python -m energyflow_mlx encode key=value")


def test_help_of_the_trainer_lists_experiments_groups_and_choices(monkeypatch, capsys):
    assert call(monkeypatch, "train", "--help") == 0
    shown = capsys.readouterr().out
    for group in (path for path in CONF_FOLDER.iterdir() if path.is_dir()):
        for choice in group.glob("*.yaml"):
            assert choice.stem in shown
    assert "\n  flow_text " in shown and "\n  precision " in shown


def test_encoding_never_imports_hydra(tmp_path):
    code = (
        "import sys; from energyflow_mlx import __main__ as m\n"
        "sys.argv = ['energyflow', 'encode', 'run=no', 'input=a.txt', 'output=b.npy']\n"
        "try: m.main()\nexcept SystemExit as end: assert end.code == 2\n"
        "import energyflow_mlx.build.codec\n"
        "assert 'hydra' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_top_of_the_package_has_what_a_caller_needs():
    from energyflow_mlx.errors import InputError
    from energyflow_mlx.inference import SentenceCodec

    assert energyflow_mlx.SentenceCodec is SentenceCodec
    assert energyflow_mlx.InputError is InputError
    with pytest.raises(AttributeError, match="'nothing'"):
        _ = energyflow_mlx.nothing
