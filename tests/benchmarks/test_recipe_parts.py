"""A recipe without one of its parts is a recipe that can be trained."""

import pytest

from benchmarks.recipe_parts import CHANGES
from tests.docs.pages import compose_config

DECODERS = ("whole", "own pairs", "+corrector", "muon")
ENCODERS = ("whole", "context", "broad", "muon")
BOTH = ("own text", "corrector")


@pytest.mark.parametrize(
    ("recipe", "part"),
    [("decoder_best", part) for part in DECODERS]
    + [("encoder_best", part) for part in ENCODERS]
    + [("both_best", part) for part in BOTH],
)
def test_a_recipe_without_a_part_is_one_that_trains(recipe, part):
    compose_config(f"+experiment={recipe}", "run.dir=x", *CHANGES[part])


def test_every_part_is_looked_at():
    assert {*DECODERS, *ENCODERS, *BOTH} == CHANGES.keys()
