"""A guard that turns MLX's silent evaluations into errors while it is armed.

``.item()``, ``float(x)``, ``if x`` and printing force a lazy array to be computed
without saying so. ``readback.py`` arms this guard in debug mode while a batch is
open. NumPy reads arrays through the buffer protocol, which cannot be intercepted.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx

_METHODS = (
    *("item", "tolist", "__bool__", "__int__", "__float__", "__complex__"),
    *("__index__", "__repr__", "__str__", "__format__", "__array__"),
)


class ReadbackError(RuntimeError):
    """A batch or a readback was used against the rules of ``readback.py``."""


class HiddenReadGuard:
    """Replaces the evaluating methods of MLX, in one thread, while armed.

    Attributes:
        label: What the guard protects, or None while it is not armed.
    """

    def __init__(self) -> None:
        self.label: str | None = None
        self._own: dict[tuple[Any, str], Any] = {}

    def arm(self, label: str) -> None:
        """Make hidden reads raise; does nothing when armed already."""
        if self.label is not None:
            return
        self.label = label
        targets = [(mx.array, name) for name in _METHODS]
        for owner, name in [*targets, (mx, "eval"), (mx, "async_eval")]:
            self._own[owner, name] = vars(owner).get(name)  # None: inherited
            setattr(owner, name, _refuse(name, label, getattr(owner, name)))

    def disarm(self) -> None:
        """Put the methods of MLX back."""
        for (owner, name), own in self._own.items():
            if own is None:
                delattr(owner, name)
            else:
                setattr(owner, name, own)
        self._own.clear()
        self.label = None

    @contextmanager
    def lifted(self) -> Iterator[None]:
        """Allow reads in the body, then restore the state found."""
        label = self.label
        self.disarm()
        try:
            yield
        finally:
            if label is not None:
                self.arm(label)


def _refuse(name: str, label: str, original: Callable[..., Any]) -> Callable[..., Any]:
    thread = threading.get_ident()

    def refuse(*args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != thread:
            return original(*args, **kwargs)
        raise ReadbackError(
            f"[readback] arrays must stay lazy inside batch '{label}', got a hidden "
            f"read by '{name}'; defer the array and read it after the sync."
        )

    return refuse
