"""The documentation as text: pages, sections, tables, and the commands they name."""

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from energyflow_mlx.config.store import CONF_FOLDER, register

CHECKOUT = Path(__file__).resolve().parents[2]
README = "README.md"

_MODULE = "python -m energyflow_mlx."
_COMMAND = re.compile(
    r"(?:\w+=\S+ )*(?:make|source|python|energyflow) .*|(?:train|evaluate) \S.*"
)
_INLINE = re.compile(r"`([^`]+)`")

register()


def read(name):
    return (CHECKOUT / name).read_text(encoding="utf-8")


def page_names():
    """README, every page of ``docs/`` and of the examples, in reading order."""
    pages = [
        *sorted((CHECKOUT / "docs").rglob("*.md")),
        *CHECKOUT.glob("examples/*.md"),
    ]
    return [README, *(page.relative_to(CHECKOUT).as_posix() for page in pages)]


PAGES = {name: read(name) for name in page_names()}


def section(page, title):
    """Text below a heading of the second level."""
    found = re.search(
        rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", PAGES[page], re.M | re.S
    )
    assert found, f"{page} has no section {title!r}"
    return found[1]


def table_rows(text, head):
    """Cells of every table whose first column is called ``head``, without heads."""
    rows, lines = [], iter(text.splitlines())
    for line in lines:
        if not line.startswith(f"| {head} |"):
            continue
        next(lines)  # the rule
        for row in lines:
            if not row.startswith("|"):
                break
            rows.append([cell.strip() for cell in row.strip("|").split("|")])
    assert rows, f"no table with the column {head!r}"
    return rows


def names_in(text):
    """What stands in backquotes."""
    return _INLINE.findall(text)


# Commands and code -------------------------------------------------------------------


@dataclass(frozen=True)
class Snippet:
    """Something a reader may type: one command line, or a block of Python.

    Attributes:
        page: Where it stands.
        language: ``sh`` or ``python``.
        text: One line without its comment, or the block.
    """

    page: str
    language: str
    text: str

    @property
    def words(self):
        """Words of a command, short names written out; variables lead."""
        text = re.sub(r"^(train|evaluate) ", rf"{_MODULE}\1 ", self.text)
        return shlex.split(text)

    @property
    def environment(self):
        """Variables set in front of the command."""
        words = self.words
        stop = next(i for i, w in enumerate(words) if not re.match(r"[A-Z_]+=", w))
        return dict(word.split("=", 1) for word in words[:stop])

    @property
    def module(self):
        """Name of the package's entry point that it runs, or none."""
        words = self.words[len(self.environment) :]
        if words[0] == "energyflow":
            return words[1].replace("-", "_")
        is_ours = words[:2] == ["python", "-m"]
        return words[2].removeprefix("energyflow_mlx.") if is_ours else None

    @property
    def script(self):
        """Path of the example that it runs, or none."""
        words = self.words[len(self.environment) :]
        is_example = words[0] == "python" and words[1].startswith("examples/")
        return words[1] if is_example else None

    @property
    def arguments(self):
        """Words after the entry point or the script."""
        words = self.words[len(self.environment) :]
        return words[3 if self.module and words[0] == "python" else 2 :]


def snippets_of(page):
    """Yield what a page shows to be typed, in its order."""
    language, block = None, []
    for line in PAGES[page].splitlines():
        if line.startswith("```"):
            if language == "sh":
                yield from (Snippet(page, "sh", text) for text in _commands(block))
            elif language == "python":
                yield Snippet(page, "python", "\n".join(block) + "\n")
            language, block = (None if language is not None else line[3:]), []
        elif language is not None:
            block.append(line)
        else:
            for text in names_in(line):
                if _COMMAND.fullmatch(text):
                    yield Snippet(page, "sh", text)


def _commands(lines):
    """Command lines of a block, joined where a backslash ends them, no comments."""
    text = "\n".join(lines).replace("\\\n", " ")
    for line in text.splitlines():
        bare = re.sub(r"\s+#.*", "", line).strip()
        if bare:
            yield re.sub(r"\s+", " ", bare)


SNIPPETS = []  # every one once, where it stands first
for _page in PAGES:
    for _snippet in snippets_of(_page):
        if _snippet.text not in {known.text for known in SNIPPETS}:
            SNIPPETS.append(_snippet)
COMMANDS = [s for s in SNIPPETS if s.language == "sh" and s.module]


# Configuration -----------------------------------------------------------------------


def compose_config(*overrides):
    with initialize_config_dir(str(CONF_FOLDER), version_base="1.3"):
        return OmegaConf.to_object(compose("config", list(overrides)))


def value_of(word):
    """What a table's cell says, as YAML would read it."""
    try:
        return json.loads(word)
    except ValueError:
        return None if word == "none" else word


def flatten(values, prefix=""):
    """Leaves of nested settings by dotted key; an empty list counts as none."""
    flat = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = None if value == [] else value
    return flat
