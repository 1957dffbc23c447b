"""Packages that only some settings need: looked for before anything is written."""

from importlib.util import find_spec

from energyflow_mlx.errors import InputError


def require_package(module: str, extra: str, wanted_by: str) -> None:
    """Refuse a setting whose package is not installed.

    Args:
        module: Name the package is imported by.
        extra: Extra of this package that brings it.
        wanted_by: The setting, as it was typed.

    Raises:
        InputError: The package is missing; names the command that installs it.
    """
    if find_spec(module) is None:
        raise InputError(
            f"[extras] {wanted_by} needs the package {module}, which is not installed: "
            f"pip install 'energyflow-mlx[{extra}]'"
        )
