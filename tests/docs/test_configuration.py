"""``configuration.md`` says what is: groups, every key, its default and its choices."""

import functools

import pytest
from omegaconf import OmegaConf

from energyflow_mlx.config import (
    Config,
    LatticeConfig,
    TransformerEncoderConfig,
    config_from_json,
    objectives_type,
)
from energyflow_mlx.config.store import CONF_FOLDER
from energyflow_mlx.runs import folder
from energyflow_mlx.training.objectives import Objective
from tests.docs.pages import (
    PAGES,
    compose_config,
    flatten,
    names_in,
    table_rows,
    value_of,
)

PAGE = "docs/configuration.md"
TRANSFORMER = "Key of `encoder=transformer`"
# Not a value: it holds the time.
# The number format is left open by the default choice of its group.
WITHOUT_FIXED_DEFAULT = {"run.dir", "precision.dtype"}
# Set by the choice of the group alone.
WITHOUT_CHOICES = {"encoder.family"}


def everything(**changes):
    """A configuration in which every group and objective is there."""
    config = Config(lattice=LatticeConfig(), **changes)
    kinds = objectives_type().__annotations__
    for name in kinds:
        if getattr(config.objectives, name) is None:
            settings = next(t for t in kinds[name].__args__ if t is not type(None))
            setattr(config.objectives, name, settings(lr=config.optimizer.lr))
    config.data.train = ["my.txt"]
    return config


def transformer():
    return everything(encoder=TransformerEncoderConfig(), share="none")


@functools.cache
def leaves():
    flat = flatten(everything().to_json())
    del flat["version"]
    return flat | {"data.train": None}


def rows_by_key():
    rows = table_rows(PAGES[PAGE], "Key") + table_rows(PAGES[PAGE], TRANSFORMER)
    return [(names_in(key)[0], default, meaning) for key, default, meaning in rows]


# Groups ------------------------------------------------------------------------------


def test_every_group_and_every_option_has_its_row():
    rows = table_rows(PAGES[PAGE], "Group")
    said = {names_in(row[0])[0].lstrip("+"): set(names_in(row[1])) for row in rows}
    there = {
        path.name: {option.stem for option in path.glob("*.yaml")}
        for path in CONF_FOLDER.iterdir()
        if path.is_dir()
    }
    assert said == there


def test_first_option_of_a_group_is_the_default():
    defaults = OmegaConf.load(CONF_FOLDER / "config.yaml").defaults
    chosen = {k: v for item in defaults if item not in ("schema", "_self_")
              for k, v in item.items()}  # fmt: skip
    for group, options, *_ in table_rows(PAGES[PAGE], "Group"):
        name, first = names_in(group)[0], options.split(",")[0].strip("` ")
        assert chosen.get(name) == (None if first == "none" else first), name


def test_presets_set_what_their_table_says():
    rows = table_rows(PAGES[PAGE], "Preset key")
    names = ["debug", "experiment", "optimized"]
    for place, name in enumerate(names, 1):
        given = OmegaConf.load(CONF_FOLDER / "lattice" / f"{name}.yaml")
        given = flatten({k: v for k, v in OmegaConf.to_container(given).items()
                         if k != "defaults"}, "lattice.")  # fmt: skip
        said = {names_in(r[0])[0]: value_of(r[place]) for r in rows if r[place]}
        assert said == given, name


# Keys --------------------------------------------------------------------------------


def test_every_leaf_of_the_configuration_has_exactly_one_row():
    own = {f"encoder.{name}" for name in ("layers", "heads", "max_positions")}
    keys = [key for key, *_ in rows_by_key()]
    assert sorted(keys) == sorted(set(leaves()) | own)


def test_every_key_has_the_default_that_its_row_says():
    flat = leaves() | {
        key: value
        for key, value in flatten(transformer().to_json()).items()
        if key not in leaves()
    }
    for key, default, _ in rows_by_key():
        if key not in WITHOUT_FIXED_DEFAULT:
            assert value_of(default) == flat[key], f"{key} is {flat[key]!r}"


def test_defaults_are_those_of_a_composed_run():
    flat = flatten(compose_config("run.dir=x").to_json())
    said = {key: value_of(default) for key, default, _ in rows_by_key()}
    for key in flat.keys() & said.keys() - WITHOUT_FIXED_DEFAULT:
        assert said[key] == flat[key], key


def test_a_transformer_differs_where_the_page_says_so():
    tcn, other = flatten(everything().to_json()), flatten(transformer().to_json())
    both = {k for k in tcn if k.startswith("encoder.")} & other.keys()
    differing = {k: other[k] for k in both if tcn[k] != other[k]}
    assert differing.pop("encoder.family") == "transformer"
    for key, value in differing.items():
        assert f"`{key}` {value}" in PAGES[PAGE], key


CHOICES = [
    (key, word)
    for key, _, meaning in rows_by_key()
    for word in names_in(meaning)
    if word.isidentifier() and key not in WITHOUT_CHOICES
]


@pytest.mark.parametrize(("key", "word"), CHOICES, ids=map("=".join, CHOICES))
def test_a_choice_it_names_is_accepted(key, word):
    changed = everything(share="none").to_json()
    *groups, name = key.split(".")
    functools.reduce(dict.__getitem__, groups, changed)[name] = word
    config_from_json(changed)  # refuses a value out of range


def test_choices_are_among_those_that_are_tried():
    assert {("encoder.pooling", "gated"), ("trainer.train", "projection")} <= {*CHOICES}


def test_best_metrics_it_names_are_those_that_objectives_measure():
    named = {word for key, word in CHOICES if key == "trainer.best_metric"}
    assert named == {m for o in Objective.registered.values() for m in o.measures}


def test_keys_that_may_differ_on_resuming_are_those_that_may():
    (sentence,) = [p for p in PAGES[PAGE].split("\n\n") if "Some keys may differ" in p]
    assert set(names_in(sentence)) == folder._FREE
