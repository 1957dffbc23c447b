"""Words of the trainer's command line are understood before Hydra sees them."""

import pytest

from energyflow_mlx.config import train_line
from energyflow_mlx.config.store import register
from energyflow_mlx.config.wording import expected, suggestion
from energyflow_mlx.errors import InputError
from tests.docs.pages import compose_config
from tests.docs.test_configuration import leaves

register()


def test_keys_are_those_that_can_be_composed():
    assert leaves().keys() <= train_line.settings().keys()


@pytest.mark.parametrize("key", sorted(leaves()))
def test_every_misspelt_key_is_told_from_every_real_one(key):
    wrong = key[:-1] + "qq"
    with pytest.raises(InputError, match="unknown key") as refused:
        train_line.check([f"{wrong}=1"])
    assert key in str(refused.value)


@pytest.mark.parametrize(
    "words",
    [
        ["+experiment=ab", "data.train=[a.txt,b.txt]", "trainer.epochs=2"],
        ["-m", "+experiment=ab", "share=none,last", "seed=1,2,3"],
        ["encoder=transformer", "encoder.heads=4", "share=none"],
        ["objectives={flow: {share: 1}}", "lattice=debug", "lattice.cube.width=8"],
        ["~lattice", "hydra.verbose=true", "trainer.backend=cpu", "teacher.name=x"],
        ["objectives.reconstruction=null", "data.val=null", "trainer.min_delta=1e-3"],
        ["+experiment=ab", "--cfg", "job"],
        ["seed=${trainer.epochs}"],
    ],
    ids=lambda words: words[0],
)
def test_right_words_pass(words):
    train_line.check(words)


def test_type_of_every_value_of_a_sweep_is_looked_at():
    with pytest.raises(InputError, match="seed must be a whole number, got 'x'"):
        train_line.check(["-m", "seed=1,x"])


def test_what_is_said_of_a_null_objective_can_be_typed():
    said = train_line.null_group(["objectives.flow.share=2"])
    word = said.split("'")[1]
    assert compose_config(word).objectives.flow.share == 2


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("trainer.epoch", "trainer.epochs"),
        ("lr", "objectives.distillation.lr"),
        ("xyzzy", ""),
    ],
)
def test_suggestion_is_the_nearest_or_the_same_name_elsewhere(word, hint):
    found = suggestion(word, ["objectives.distillation.lr", "trainer.epochs"])
    assert found == (f"; did you mean {hint}?" if hint else "")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (int, "a whole number"),
        (str | None, "a text or null"),
        (list[int], "a list, such as [16,32]"),
    ],
)
def test_types_are_said_in_words(kind, words):
    assert expected(kind) == words
