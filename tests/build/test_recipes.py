"""Recipes for one large GPU: within their limits, and each trains, made small."""

import pytest

from energyflow_mlx.build.model import build_model
from energyflow_mlx.build.objectives import build_objectives, parts_of
from energyflow_mlx.build.run import run
from energyflow_mlx.model import count_parameters
from energyflow_mlx.runs.folder import RunFolder
from tests.docs.pages import compose_config

# Tokens that 1.6 million sentences have three times or more, as the recipes count them.
VOCABULARY, DIMENSION = 29_442, 384
SMALL = [
    *("data.captions=120", "data.buckets=[32]", "data.max_length=32"),
    *("data.own_pairs.start=0", "data.own_pairs.every=2", "data.own_pairs.count=24"),
    *("data.own_pairs.temperature=0.3", "data.own_pairs.ring=64"),
    *("objectives.correction.every=2", "objectives.correction.count=8"),
    *("objectives.correction.kept=16", "decoder.dim=16", "decoder.hidden=24"),
    *("encoder.dim=24", "encoder.hidden=32", "encoder.embedding_rank=8"),
    *("tokenizer=bpe", "tokenizer.bpe_size=300", "tokenizer.min_count=1"),
    *("trainer.micro_batch=8", "trainer.max_steps=8", "trainer.validate_every=8"),
    *("trainer.decode_samples=2", "trainer.log_every=2", "trainer.backend=cpu"),
]


def limits():
    """Most weights of encoder, and of decoder with its corrector, by recipe."""
    return [
        pytest.param("encoder_best", 8e6, 0, id="encoder_best"),
        pytest.param("tiny", 4e6, 0, id="tiny"),
        pytest.param("decoder_best", 0, 9e7, id="decoder_best"),
        pytest.param("both_best", 8e6, 3e7, id="both_best"),
        pytest.param("both_small", 4e6, 3e7, id="both_small"),
    ]


@pytest.mark.parametrize(("name", "encoder", "decoder"), limits())
def test_a_recipe_is_as_small_as_it_says(name, encoder, decoder):
    config = compose_config(f"+experiment={name}", "run.dir=x")
    parts = parts_of(build_objectives(config))
    counts = count_parameters(build_model(config, parts, VOCABULARY, DIMENSION))
    assert counts.get("encoder", 0) <= encoder
    assert counts.get("decoder", 0) + counts.get("corrector", 0) <= decoder
    assert counts["total"] == sum(n for part, n in counts.items() if part != "total")


def test_recipes_of_encoders_have_context_and_widths_of_their_own():
    found = {
        name: compose_config(f"+experiment={name}", "run.dir=x").encoder
        for name in ("encoder_best", "both_best", "tiny", "both_small")
    }
    assert {name: (e.context, e.dim, e.hidden) for name, e in found.items()} == {
        "encoder_best": (True, 384, 576),
        "both_best": (True, 384, 576),
        "tiny": (True, 256, 512),
        "both_small": (False, 256, 512),
    }


@pytest.mark.parametrize("name", ["decoder_best", "both_best"])
def test_a_recipe_trains_with_own_pairs_and_guesses(name, tmp_path):
    summary = run(compose_config(f"+experiment={name}", *SMALL, f"run.dir={tmp_path}"))
    assert summary["steps"] == 8
    assert summary["own_pairs"]["sampled"] == 3 * 24  # before updates 2, 4 and 6
    assert summary["guesses"]["made"] == 4 * 8
    assert {"ce", "exact", "exact_corrected"} <= summary["final"].keys()
    saved = RunFolder(tmp_path).latest()
    groups = {array.partition(".")[0] for array in saved.arrays}
    assert {"model", "guesses"} <= groups
