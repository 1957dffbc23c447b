"""The wheel and the source archive are whole, and the wheel runs away from home."""

import json
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.packages import build, install, run


@pytest.fixture(scope="module")
def wheel(checkout, tmp_path_factory):
    return build(checkout, tmp_path_factory.mktemp("wheel"), "wheel")


@pytest.fixture(scope="module")
def unpacked_sdist(checkout, tmp_path_factory):
    archive = build(checkout, tmp_path_factory.mktemp("sdist"), "sdist")
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    (root,) = folder.iterdir()
    return root


def names(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def files_of(checkout, folder):
    return {
        path.relative_to(checkout).as_posix()
        for path in (checkout / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_wheel_holds_the_package_and_its_c_source(checkout, wheel):
    assert files_of(checkout, "energyflow_mlx") <= names(wheel)
    assert {
        "energyflow_mlx/py.typed",
        "energyflow_mlx/runtime/_blas/forward.c",
    } <= names(wheel)


@pytest.mark.parametrize("folder", ["conf", "kernels"])
def test_wheel_holds_the_folders_of_the_top_level(checkout, wheel, folder):
    expected = {f"energyflow_mlx/{name}" for name in files_of(checkout, folder)}
    assert expected and expected <= names(wheel)


def test_wheel_holds_nothing_else(wheel):
    tops = {name.split("/")[0] for name in names(wheel)}
    metadata = {name for name in tops if name.endswith(".dist-info")}
    assert len(metadata) == 1 and tops - metadata == {"energyflow_mlx"}


def test_source_archive_builds_the_same_wheel(wheel, unpacked_sdist, tmp_path):
    again = build(unpacked_sdist, tmp_path, "wheel")
    assert names(again) == names(wheel)


def test_source_archive_can_be_set_up_and_tested(checkout, unpacked_sdist):
    for folder in ("tests", "docs", "examples"):
        assert files_of(checkout, folder) <= files_of(unpacked_sdist, folder)
    for name in ("Makefile", "pyproject.toml", "LICENSE", ".ci/run"):
        assert (unpacked_sdist / name).is_file(), name


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Install the wheel alone into a fresh folder; what it needs is here already."""
    target = tmp_path_factory.mktemp("site")
    install(wheel, target)
    return target


def test_installed_wheel_runs_from_another_folder(installed, tmp_path):
    out = run(
        "-m",
        "energyflow_mlx.doctor",
        "json=true",
        cwd=tmp_path,
        PYTHONPATH=str(installed),
    )
    assert json.loads(out)["mlx"]["level"] == "ok"
    code = "import energyflow_mlx; print(energyflow_mlx.__file__)"
    where = run("-c", code, cwd=tmp_path, PYTHONPATH=str(installed))
    assert Path(where.strip()).is_relative_to(installed)


@pytest.mark.parametrize("experiment", ["ab", "smoke"])
def test_installed_wheel_finds_its_configuration(installed, tmp_path, experiment):
    out = run(
        *("-m", "energyflow_mlx.train", f"+experiment={experiment}", "--cfg", "job"),
        cwd=tmp_path,
        PYTHONPATH=str(installed),
    )
    assert "encoder:\n" in out
    assert not list(tmp_path.iterdir()), "showing the configuration writes nothing"


def test_cpu_and_cuda_builds_of_mlx_share_their_bounds(checkout):
    project = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    (front,) = (d for d in project["dependencies"] if d.startswith("mlx"))
    bounds = front.removeprefix("mlx")
    extras = project["optional-dependencies"]
    assert extras["cpu"] == [f"mlx[cpu]{bounds}"]
    assert extras["cuda"] == [f"mlx[cuda13]{bounds}"]
