"""Nothing is configured in vain, and nothing public is out of reach."""

import pytest

from tests.counts import PACKAGE
from tests.reach import unreached_functions, unread_settings
from tests.test_rooms import ENTRY_POINTS

# Read by config/ alone, which picks the dataclass by it.
TAGS = {"encoder.family"}
# Called from outside by their names.
_MODULE = "inference/formats/for_sentence_transformers.py: EnergyFlowOnnx"
BY_FRAMEWORKS = {
    "sweep_report.py: SweepReport.on_multirun_end",
    "training/console.py: RunConsole.on_broken_pipe",
    "runtime/interrupts.py: Held.hang_up",
    f"{_MODULE}.preprocess",
    f"{_MODULE}.get_embedding_dimension",
}
# Tests replace the kernels' factory, which must then be asked again.
FOR_TESTS = {"ops/_backend.py: clear_kernel_cache"}


def test_every_setting_is_read():
    assert set(unread_settings(PACKAGE)) - TAGS == set()


def test_every_public_function_is_reached_from_an_entry_point_or_named(checkout):
    pages = [checkout / "README.md", *(checkout / "docs").glob("*.md")]
    words = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    unreached = set(unreached_functions(PACKAGE, ENTRY_POINTS, words))
    assert unreached - BY_FRAMEWORKS - FOR_TESTS == set()


CONFIG = """
@dataclass
class Part:
    size: int = 1
    rate: float = 0.5
    def __post_init__(self):
        assert self.size and self.rate
    @property
    def doubled(self):
        return 2 * self.size

@dataclass
class Other:
    rate: float = 0.5

@dataclass
class Config:
    part: Part
    other: Other | None
    seed: int = 0
"""


@pytest.mark.parametrize(
    ("source", "unread"),
    [
        ("", {"part.size", "part.rate", "other.rate", "seed"}),
        ("c.part.size, c.part.rate, c.other.rate, c.seed", set()),
        ("c.part.doubled, c.part.rate, c.other.rate, c.seed", set()),
        ("c.part.size, c.other.rate, c.seed", {"part.rate"}),
        ("c.part.size = c.part.rate; c.other.rate, c.seed", {"part.size"}),
        ("p = c.part\np.size, p.rate, c.other.rate, c.seed", set()),
        ("def f(p: Part): return p.size, p.rate", {"other.rate", "seed"}),
        ("def f(p: 'Other | None'): p.rate, c.seed, c.part.size", {"part.rate"}),
        ("class A:\n  def g(self): self.p.rate, self.p.size, c.other.rate, c.seed\n"
         "  def f(self, p: Part): self.p = p", set()),
        ("getattr(c.part, 'size'), x.rate, c.seed", set()),
    ],
)  # fmt: skip
def test_settings_are_followed_to_their_readers(package, source, unread):
    folder = package(config__root=CONFIG, loop=source)
    assert set(unread_settings(folder)) == unread


CODE = """
__all__ = ["listed"]
def used(): return helper()
def helper(): return Thing().method()
def listed(): pass
def dead(): return only_by_the_dead()
def only_by_the_dead(): pass
def _private(): pass
class Thing:
    def __init__(self): self._own()
    def _own(self): by_the_constructor()
    def method(self): pass
    def idle(self): pass
def by_the_constructor(): pass
def written_of(): pass
"""


def test_functions_are_followed_from_the_entry_points(package):
    folder = package(
        train="from room import used\ndef main(): used()\nmain()", room=CODE
    )
    assert unreached_functions(folder, {"train"}, "call `written_of()`") == [
        "room.py: Thing.idle",
        "room.py: dead",
        "room.py: listed",
        "room.py: only_by_the_dead",
    ]


def test_an_import_alone_reaches_nothing_except_in_an_entry_point(package):
    folder = package(
        room="def used(): pass", other="from room import used", **{"__init__": ""}
    )
    assert unreached_functions(folder, {"__init__"}, "") == ["room.py: used"]
    (folder / "__init__.py").write_text("from room import used")
    assert unreached_functions(folder, {"__init__"}, "") == []
