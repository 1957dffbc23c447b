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
    *("decoder.dim=16", "decoder.hidden=24"),
    *("encoder.dim=24", "encoder.hidden=32", "encoder.embedding_rank=8"),
    *("tokenizer=bpe", "tokenizer.bpe_size=300", "tokenizer.min_count=1"),
    *("trainer.micro_batch=8", "trainer.max_steps=8", "trainer.validate_every=8"),
    *("trainer.decode_samples=2", "trainer.log_every=2", "trainer.backend=cpu"),
]
CORRECTION = [f"objectives.correction.{x}" for x in ("every=2", "count=8", "kept=16")]


def limits():
    """Most weights of encoder, and of decoder with its corrector, by recipe."""
    return [
        pytest.param("encoder_best", 8e6, 0, id="encoder_best"),
        pytest.param("tiny", 4e6, 0, id="tiny"),
        pytest.param("decoder_best", 0, 1.5e8, id="decoder_best"),
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


def test_decoders_without_a_corrector_have_narrow_kernels():
    found = {
        name: compose_config(f"+experiment={name}", "run.dir=x").decoder
        for name in ("decoder_best", "both_best", "both_small")
    }
    assert {name: (d.corrector, d.kernel_size) for name, d in found.items()} == {
        "decoder_best": (False, 2),
        "both_best": (True, 3),
        "both_small": (False, 2),
    }


def groups_of(folder):
    """What arrays of the newest checkpoint are part of."""
    return {name.partition(".")[0] for name in RunFolder(folder).latest().arrays}


def test_the_recipe_of_both_trains_with_own_pairs_and_guesses(tmp_path):
    words = [*SMALL, *CORRECTION, f"run.dir={tmp_path}"]
    summary = run(compose_config("+experiment=both_best", *words))
    assert summary["steps"] == 8
    assert summary["own_pairs"]["sampled"] == 3 * 24  # before updates 2, 4 and 6
    assert summary["guesses"]["made"] == 4 * 8
    assert {"ce", "exact", "exact_corrected"} <= summary["final"].keys()
    assert {"model", "guesses", "own_pairs"} <= groups_of(tmp_path)


def test_the_recipe_of_a_decoder_trains_with_own_pairs_and_no_corrector(tmp_path):
    words = [*SMALL, f"run.dir={tmp_path}"]
    summary = run(compose_config("+experiment=decoder_best", *words))
    assert summary["own_pairs"]["sampled"] == 3 * 24
    assert "guesses" not in summary and summary["parameters"].keys() == {
        *("decoder", "total")
    }
    assert {"ce", "exact"} <= summary["final"].keys()
    assert "own_pairs" in groups_of(tmp_path)
