"""Configuration: every experiment composes, mistakes are named, JSON round trip."""

import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf

from energyflow_mlx.config import Config, config_from_json, read_config
from energyflow_mlx.config.store import CONF_FOLDER, register
from energyflow_mlx.errors import InputError

register()
EXPERIMENTS = sorted(p.stem for p in (CONF_FOLDER / "experiment").glob("*.yaml"))


def compose_config(*overrides):
    with initialize_config_dir(str(CONF_FOLDER), version_base="1.3"):
        composed = compose("config", list(overrides), return_hydra_config=False)
    return OmegaConf.to_object(composed)


def test_experiments_are_there():
    assert {"ab", "distill", "reconstruct", "smoke"} <= set(EXPERIMENTS)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes_and_survives_json(name):
    config = compose_config(f"+experiment={name}", "run.dir=x")
    assert isinstance(config, Config)
    assert config_from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize(
    "override",
    [
        "encoder=transformer",
        "encoder=tcn_small",
        "data=text",
        "data=jsonl",
        "data=efb",
        "data=hf",
        "teacher=bert",
        "teacher=precomputed",
        "teacher=callable",
        "precision=bf16",
        "precision=fp16",
        "tokenizer=bpe",
    ],
)
def test_every_group_option_composes(override):
    extra = {
        "encoder=transformer": ["share=none"],
        "encoder=tcn_small": ["share=none"],
        "data=text": ["data.train=a.txt"],
        "data=jsonl": ["data.train=[a.jsonl]"],
        "data=efb": ["data.train=a.efb"],
        "data=hf": ["data.train=name", "data.text_column=x", "data.subset=a"],
        "teacher=bert": ["teacher.name=folder"],
        "teacher=callable": ["teacher.function=a:b", "tokenizer=bpe"],
        "teacher=precomputed": ["data.train=a.efb"],
    }.get(override, [])
    assert compose_config(override, *extra, "run.dir=x")


def products(encoder):
    """Multiplications of the blocks, a token."""
    taps = encoder.kernel_size + 1
    return taps * encoder.dim * encoder.hidden * len(encoder.dilations)


def test_the_small_encoder_needs_a_twelfth_of_the_products():
    small = compose_config("encoder=tcn_small", "share=none", "run.dir=x").encoder
    assert 12 * products(small) == products(Config().encoder)


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("trainer.epoch=3", "epoch"),
        ("traner.epochs=3", "traner"),
        ("trainer.epochs=many", "trainer.epochs"),
        ("encoder.dilations=[a]", "dilations"),
    ],
)
def test_misspelt_keys_and_wrong_types_fail_naming_the_key(override, named):
    with pytest.raises(HydraException, match=named):
        compose_config(override, "run.dir=x")


def test_context_is_a_setting_of_the_convolutions_alone():
    with pytest.raises(HydraException, match="context"):
        compose_config("encoder=transformer", "encoder.context=true", "run.dir=x")


CONTEXT = ("encoder.context=true", "encoder.causal=false")


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["objectives.distillation.share=0"], "objectives.distillation.share"),
        (["objectives.distillation.mse=-1"], "objectives.distillation.mse"),
        (["objectives.reconstruction.lr=0"], "objectives.reconstruction.lr"),
        (["token_rows.candidates=-1"], "token_rows.candidates"),
        (["trainer.micro_batch=0"], "trainer.micro_batch"),
        (["data.buckets=[32,16]"], "data.buckets"),
        (["data.max_length=500"], "data.max_length"),
        (["encoder.kernel_size=0"], "encoder.kernel_size"),
        (["decoder.hidden=100"], "decoder.hidden"),
        (["decoder.dilations=[1,4]"], "decoder.dilations"),
        (["encoder=transformer"], "share"),
        (["encoder.context=true"], r"encoder\.causal must be false"),
        ([*CONTEXT, "share=all"], r"encoder\.context .* with share=all"),
        ([*CONTEXT, "share=none", "encoder.dilations=[1]"], r"encoder\.context must"),
        (["data=text"], "data.train"),
        (["teacher=precomputed"], "data.train"),
        (["teacher=bert"], "teacher.name"),
        (["teacher=callable"], "teacher.function"),
        (["teacher=callable", "teacher.function=a:b"], "tokenizer.kind"),
        (["teacher.function=a:b"], "teacher.function"),
        (["data=hf"], "data.train"),
        (["data.split=test"], "data.split"),
        (["data.subset=x"], "data.subset"),
        (["data=hf", "data.train=x", "data.val_split=''"], "data.val_split"),
        (["data=hf", "data.train=x", "data.pairs=true"], "data.pairs"),
        (["optimizer.betas=[0.9]"], "optimizer.betas"),
        (["precision.loss_scale=0"], "precision.loss_scale"),
        (["seed=-1"], "seed"),
    ],
)
def test_ranges_and_cross_field_rules_are_checked_naming_the_key(overrides, named):
    with pytest.raises(InputError, match=named):
        compose_config(*overrides, "run.dir=x")


@pytest.mark.parametrize(
    "path", sorted(CONF_FOLDER.glob("*/*.yaml")), ids=lambda path: path.stem
)
def test_no_group_file_leaves_a_value_open(path):
    """Merged over the schema's default, "???" is lost and the default stays."""
    values = OmegaConf.load(path)
    assert not OmegaConf.missing_keys(values)


def test_paths_are_one_or_several():
    assert compose_config("data.train=a.txt", "run.dir=x").data.train == ["a.txt"]
    two = compose_config("data.train=[a.txt,b.txt]", "run.dir=x")
    assert two.data.train == ["a.txt", "b.txt"]


def test_a_stored_config_with_an_unknown_key_is_refused(tmp_path: Path):
    values = Config().to_json()
    values["trainer"]["surprise"] = 1
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"trainer\.surprise"):
        read_config(tmp_path / "config.json")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="not readable JSON"):
        read_config(tmp_path / "config.json")


def test_objectives_without_a_rate_of_their_own_take_that_of_the_optimizer():
    config = compose_config("optimizer.lr=0.02", "objectives.distillation.lr=0.5")
    assert config.objectives.distillation.lr == 0.5
    assert config.objectives.reconstruction.lr == 0.02
    own = compose_config("+experiment=ab", "optimizer.lr=0.02").objectives
    assert (own.distillation.lr, own.reconstruction.lr) == (3e-3, 0.02)


def test_a_run_from_before_the_later_keys_is_the_same_run():
    """Else it could not be resumed."""
    now = compose_config("run.dir=x")
    values = now.to_json()
    del values["trackers"], values["run"]["project"], values["optimizer"]["lr"]
    assert config_from_json(values) == now


def test_trackers_are_known_names_each_once():
    assert compose_config("trackers=[csv,wandb]").trackers == ["csv", "wandb"]
    for words in ("trackers=[excel]", "trackers=[csv,csv]"):
        with pytest.raises(InputError, match="trackers must be"):
            compose_config(words)
