"""What every test shares: seeds, no network, markers, the data beside the checkout."""

import os
import random
import socket
import sys
import tempfile
from pathlib import Path

import pytest

import energyflow_mlx  # noqa: F401  before any test module imports mlx.core
from energyflow_mlx.runtime import jit_headers

# The hub's client must not even look for a newer file of a model that is here.
os.environ["HF_HUB_OFFLINE"] = "1"

CHECKOUT = Path(__file__).resolve().parents[1]


def pytest_sessionstart(session):
    separate_worker()
    hands_out = getattr(session.config.option, "dist", "no") != "no"
    if hands_out and not hasattr(session.config, "workerinput"):
        return  # this process compiles nothing itself
    jit_headers.precompile()


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


def pytest_addoption(parser):
    parser.addoption("--run-slow", action="store_true", help="run the slow tests too")


def pytest_runtest_setup(item):
    if item.get_closest_marker("slow") and not item.config.getoption("--run-slow"):
        pytest.skip("slow: runs with make test-slow")
    for backend in ("metal", "cuda"):
        if item.get_closest_marker(backend) and backend not in _backends():
            have = " and ".join(_backends())
            pytest.skip(f"needs a {backend} device; MLX has {have} here")


def _backends():
    from energyflow_mlx.runtime import device

    return device.available()


@pytest.fixture(autouse=True)
def seeded():
    """Start every test from the same random state, whatever ran before it."""
    random.seed(0)
    if "mlx.core" in sys.modules:
        sys.modules["mlx.core"].random.seed(0)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Refuse connections to other machines: a test that needs one is wrong."""
    connect = socket.socket.connect

    def local_only(self, address):
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1"):
            raise AssertionError(f"a test tried to connect to {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local_only)


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The folder that holds pyproject.toml."""
    return CHECKOUT


@pytest.fixture(scope="session")
def shared_folder() -> Path:
    """The folder ``shared`` beside the checkout, with real sentences and vectors."""
    folder = CHECKOUT.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip("needs the folder shared/data beside the checkout; it is not there")
    return folder


@pytest.fixture
def package(tmp_path):
    """Return a function that writes modules and gives their folder."""

    def write(**texts):
        for name, text in texts.items():
            path = tmp_path / f"{name.replace('__', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return tmp_path

    return write
