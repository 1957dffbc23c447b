"""Commands in README and docs name what is there: modules, keys, targets, scripts."""

import dataclasses
import importlib.util
import os
import re
import subprocess
import sys
import tomllib

import pytest

from energyflow_mlx.config import Config, TransformerEncoderConfig
from energyflow_mlx.config.command_line import usage
from energyflow_mlx.config.store import CONF_FOLDER
from energyflow_mlx.config.train_line import options
from tests.docs.key_tables import PAGE, SCHEMAS, section_of
from tests.docs.pages import (
    CHECKOUT,
    COMMANDS,
    PAGES,
    SNIPPETS,
    compose_config,
    names_in,
    read,
    section,
    table_rows,
)
from tests.docs.test_configuration import leaves

GROUPS = {p.name for p in CONF_FOLDER.iterdir() if p.is_dir()}
OURS = [c for c in COMMANDS if not c.module.startswith("_")]
TRAINING = [c for c in COMMANDS if c.module == "train"]


def ids(snippet):
    return snippet.text[:70]


def given_keys(command):
    return [w.partition("=")[0] for w in command.arguments if "=" in w]


def test_every_entry_point_is_named_and_can_be_run():
    modules = {command.module for command in COMMANDS} - {"__help", "__version"}
    assert modules == {"train", *SCHEMAS}
    for module in modules:
        spec = importlib.util.find_spec(f"energyflow_mlx.{module}")
        with open(spec.origin, encoding="utf-8") as source:
            assert '__name__ == "__main__"' in source.read(), module


@pytest.mark.parametrize("command", OURS, ids=ids)
def test_every_key_of_a_command_exists(command):
    if command.module == "train":
        known = leaves().keys() | GROUPS | null_or_whole_objectives()
    else:
        known = set(re.findall(r"^  (\S+) ", usage(SCHEMAS[command.module], ""), re.M))
    for key in given_keys(command):
        assert key.lstrip("+") in known or key.startswith("hydra"), key


@pytest.mark.parametrize("name", SCHEMAS)
def test_page_of_commands_lists_every_key_with_default_and_meaning(name):
    """Written by ``python -m tests.docs.key_tables``."""
    text = section(PAGE, name.replace("_", "-"))
    assert text.strip().startswith(section_of(name).strip())


def test_page_of_commands_names_experiments_and_groups():
    text = section(PAGE, "train")
    for group, choices in options().items():
        assert set(choices) <= set(names_in(text)), group
        assert group in names_in(text) or group == "experiment"


def test_page_of_commands_lists_every_extra():
    project = tomllib.loads(read("pyproject.toml"))["project"]
    rows = table_rows(section(PAGE, "What to install"), "extra")
    listed = [name for row in rows for name in names_in(row[0])]
    assert sorted(listed) == sorted(project["optional-dependencies"])


def null_or_whole_objectives():
    names = {key.split(".")[1] for key in leaves() if key.startswith("objectives.")}
    return {"objectives", *(f"objectives.{name}" for name in names)}


@pytest.mark.parametrize("command", OURS, ids=ids)
def test_every_required_key_of_a_command_is_given(command):
    required = {
        field.name
        for field in dataclasses.fields(SCHEMAS.get(command.module, Config))
        if field.default == "???"
    }
    # A bare name in a sentence is no call.
    assert not command.arguments or required <= set(given_keys(command))


@pytest.mark.parametrize("command", TRAINING, ids=ids)
def test_training_commands_compose(command):
    """Hydra takes the very words, the first of several values where it is a sweep.

    Its own settings, of sweepers and launchers, are for the command line alone.
    """
    words = [word for word in command.arguments if "=" in word]
    words = [re.sub(r"=.*interval\((.*?),.*", r"=\1", word) for word in words]
    first = [re.sub(r",(?![^\[]*\]).*", "", word) for word in words]
    compose_config(*[word for word in first if not word.startswith("hydra")])


def test_every_make_target_it_names_exists():
    targets = set(re.findall(r"^([a-z-]+):.*## ", read("Makefile"), re.M))
    text = "\n".join(PAGES.values())
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.M))
    assert {"setup", "test", "train"} <= named <= targets


SCRIPTS = {w for s in SNIPPETS for w in s.text.split() if w.startswith("benchmarks/")}


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_a_benchmark_it_names_can_be_started(script):
    """It imports what there is; what it then does takes minutes."""
    path = CHECKOUT / script
    code = f"import sys, runpy; sys.path[0] = {str(path.parent)!r}"
    code += f"; runpy.run_path({str(path)!r}, run_name='not main')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=CHECKOUT,
        env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_every_benchmark_it_names_exists_and_takes_its_options():
    calls = [s.words for s in SNIPPETS if "python benchmarks/" in s.text]
    assert calls
    for words in calls:
        place = next(i for i, w in enumerate(words) if w.startswith("benchmarks/"))
        source = (CHECKOUT / words[place]).read_text(encoding="utf-8")
        for option in (w for w in words[place:] if w.startswith("--")):
            assert f'"{option}"' in source, f"{words[place]} {option}"


def test_every_dotted_key_anywhere_exists():
    known = leaves().keys() | {
        f"encoder.{field.name}"
        for field in dataclasses.fields(TransformerEncoderConfig)
    }
    tops = {key.split(".")[0] for key in known}
    pattern = re.compile(r"`([a-z_]+(?:\.[a-z_]+)+)(?:=[^`]*)?`")
    named = {k for text in PAGES.values() for k in pattern.findall(text)}
    named = {key for key in named if key.split(".")[0] in tops}
    named -= {"tokenizer.json", "trackers.json", "optimizer.safetensors"}  # files
    assert len(named) > 100
    groups = {key.rpartition(".")[0] for key in known}
    assert named <= known | groups, named - known - groups
