"""The README says what is: keys, defaults, commands, fields and links all exist."""

import copy
import dataclasses
import importlib.util
import json
import re

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from energyflow_mlx.config import Config, TransformerEncoderConfig, config_from_json
from energyflow_mlx.config.store import CONF_FOLDER, register
from energyflow_mlx.data.dataset import read_sentences
from energyflow_mlx.decode import DecodeArgs
from energyflow_mlx.doctor import DoctorArgs
from energyflow_mlx.encode import EncodeArgs
from energyflow_mlx.evaluate import EvaluateArgs
from energyflow_mlx.export import ExportArgs
from energyflow_mlx.plot import PlotArgs
from energyflow_mlx.prepare import PrepareArgs
from energyflow_mlx.sweep_report import SweepReportArgs

register()

# Every field of the reference trainer's JSON file.
REFERENCE_FIELDS = {
    *("dataPath", "epochs", "batchSize", "microBatch", "maxLength", "maxBatches"),
    *("lr", "minLR", "warmupSteps", "cosineDecaySteps", "weightDecay"),
    *("alphaCos", "betaMSE", "accumSteps", "clipNorm", "valFraction"),
    *("saveCheckpoint", "loadCheckpoint", "saveOptState", "loadOptState"),
    *("unfreezeLastTCN", "enableAB", "abRatio", "requireTokens"),
    *("decVocabSize", "decBlocks", "decHidden", "decKernelSize", "decDilation"),
    *("decLR", "decWeightDecay"),
}
COMMANDS = {
    "evaluate": EvaluateArgs,
    "encode": EncodeArgs,
    "decode": DecodeArgs,
    "plot": PlotArgs,
    "prepare": PrepareArgs,
    "export": ExportArgs,
    "doctor": DoctorArgs,
    "sweep_report": SweepReportArgs,
}
# Not a value: `run.dir` holds the time.
WITHOUT_FIXED_DEFAULT = {"run.dir"}


@pytest.fixture(scope="module")
def readme(checkout):
    return (checkout / "README.md").read_text(encoding="utf-8")


def section(readme, title):
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", readme, re.M | re.S)
    assert found, f"README has no section {title!r}"
    return found[1]


def table_rows(text, head):
    """Cells of the table whose first column is called ``head``, without its head."""
    lines = text.splitlines()
    start = next(i for i, x in enumerate(lines) if x.startswith(f"| {head} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return rows


def names_in(cell):
    return re.findall(r"`([^`]+)`", cell)


def default_config(*overrides):
    with initialize_config_dir(str(CONF_FOLDER), version_base="1.3"):
        return OmegaConf.to_object(compose("config", list(overrides)))


def value_of(word):
    try:
        return json.loads(word)
    except ValueError:
        return word


def flatten(values, prefix=""):
    flat = {}
    for key, value in values.items():
        flat[prefix + key] = value
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
    return flat


def known_keys():
    """Dotted names of every setting, those of all encoder families included."""
    keys = set(flatten(Config().to_json()))
    for field in dataclasses.fields(TransformerEncoderConfig):
        keys.add(f"encoder.{field.name}")
    return keys


def command_words(readme):
    """Yield (module, words) of each command in the README, comments cut off."""
    for line in readme.splitlines():
        for found in re.finditer(r"python -m energyflow_mlx\.(\w+)([^`#]*)", line):
            yield found[1], found[2].split()


# Commands ----------------------------------------------------------------------------


def test_every_module_it_names_can_be_run(readme):
    modules = {module for module, _ in command_words(readme)}
    assert {"train", "evaluate", "encode", "decode", "prepare", "doctor"} <= modules
    for module in modules:
        spec = importlib.util.find_spec(f"energyflow_mlx.{module}")
        assert spec is not None, module
        with open(spec.origin, encoding="utf-8") as source:
            assert '__name__ == "__main__"' in source.read(), module


def test_every_key_of_its_commands_exists(readme):
    groups = {p.name for p in CONF_FOLDER.iterdir() if p.is_dir()}
    seen = set()
    for module, words in command_words(readme):
        for word in words:
            key, equals, _ = word.partition("=")
            if not equals:
                continue
            seen.add(module)
            if module in COMMANDS:
                fields = {f.name for f in dataclasses.fields(COMMANDS[module])}
                assert key in fields | {"data.val"}, f"{module} {word}"
            else:
                assert key.lstrip("+") in known_keys() | groups, f"{module} {word}"
    assert seen == {"train", *COMMANDS}


def test_every_required_key_of_a_command_is_given(readme):
    for module, words in command_words(readme):
        required = {
            field.name
            for field in dataclasses.fields(COMMANDS.get(module, Config))
            if field.default == "???"
        }
        given = {word.partition("=")[0] for word in words}
        assert required <= given, f"{module} {' '.join(words)}"


def test_every_make_target_it_names_exists(checkout, readme):
    makefile = (checkout / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.M))
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", readme, re.M))
    assert {"setup", "test", "train"} <= named <= targets


def test_train_commands_compose(readme):
    """Hydra takes the very words, the first of several values where it is a sweep."""
    composed = 0
    for module, words in command_words(readme):
        if module == "train" and any("=" in word for word in words):
            chosen = [word for word in words if "=" in word]
            default_config(*[re.sub(r",(?![^\[]*\]).*", "", w) for w in chosen])
            composed += 1
    assert composed >= 2


# Configuration -----------------------------------------------------------------------


def test_groups_have_the_options_it_names(readme):
    rows = table_rows(section(readme, "Configuration"), "Group")
    assert {"encoder", "data", "teacher"} <= {names_in(row[0])[0] for row in rows}
    for group, options, *_ in rows:
        folder = CONF_FOLDER / names_in(group)[0].lstrip("+")
        for option in names_in(options):
            assert (folder / f"{option}.yaml").is_file(), f"{folder.name}={option}"


def test_first_option_of_a_group_is_the_default(readme):
    defaults = OmegaConf.load(CONF_FOLDER / "config.yaml").defaults
    chosen = {k: v for item in defaults if item not in ("schema", "_self_")
              for k, v in item.items()}  # fmt: skip
    for group, options, *_ in table_rows(section(readme, "Configuration"), "Group"):
        name = names_in(group)[0]
        if not name.startswith("+"):
            assert chosen[name] == names_in(options)[0], name


def test_every_key_of_the_table_exists_and_has_the_default_it_says(readme):
    flat = flatten(default_config("run.dir=x").to_json())
    checked = 0
    for keys, default, *_ in table_rows(section(readme, "Configuration"), "Key"):
        for key in names_in(keys):
            assert key in flat, key
            if key in WITHOUT_FIXED_DEFAULT:
                continue
            said = None if default == "none" else value_of(default)
            actual = None if flat[key] == [] else flat[key]
            assert said == actual, f"{key} is {actual!r}, README says {default}"
            checked += 1
    assert checked > 40


def test_every_dotted_key_anywhere_exists(readme):
    prefixes = {f.name for f in dataclasses.fields(Config)}
    pattern = re.compile(r"`([a-z]+)\.(\w+)(?:=[^`]*)?`")
    named = {f"{a}.{b}" for a, b in pattern.findall(readme) if a in prefixes}
    named -= {"tokenizer.json"}  # a file
    assert len(named) > 40
    assert named <= known_keys(), named - known_keys()


def test_choices_it_names_are_accepted(readme):
    chosen = re.findall(r"`((?:trainer\.\w+|share)=[\w.]+)`", readme)
    for keys, _, meaning in table_rows(section(readme, "Configuration"), "Key"):
        words = [word for word in names_in(meaning) if re.fullmatch(r"\w+", word)]
        chosen += [f"{names_in(keys)[0]}={word}" for word in words]
    assert {"encoder.pooling=gated", "trainer.train=projection"} <= set(chosen)
    plain = default_config("run.dir=x").to_json()
    for override in chosen:
        changed = copy.deepcopy(plain)
        key, _, value = override.partition("=")
        *groups, name = key.split(".")
        section_of = changed[groups[0]] if groups else changed
        section_of[name] = value_of(value)
        config_from_json(changed)  # refuses a value out of range


# Migration ---------------------------------------------------------------------------


def test_every_field_of_the_reference_trainer_has_one_row(readme):
    rows = table_rows(section(readme, "Coming from EnergyFlowSwift"), "Field")
    fields = [name for row in rows for name in names_in(row[0])]
    assert sorted(fields) == sorted(REFERENCE_FIELDS)


def test_every_row_names_a_key_or_says_why_there_is_none(readme):
    keys = known_keys()
    rows = table_rows(section(readme, "Coming from EnergyFlowSwift"), "Field")
    for field, here in rows:
        named = [name.partition("=")[0] for name in names_in(here)]
        has_key = any(name in keys for name in named)
        says_why = re.match(r"none\b.{10,}", here)
        assert has_key or says_why, f"{field}: {here}"


# Files, links and words --------------------------------------------------------------


def test_its_efb_example_is_a_whole_file(readme, tmp_path):
    (example,) = re.findall(r"^(45464232[0-9a-f ]+)$", readme, re.M)
    path = tmp_path / "example.efb"
    path.write_bytes(bytes.fromhex(example))
    sentences = read_sentences(path)
    assert sentences.texts == ["Hé"]
    assert sentences.targets.tolist() == [[1.0, -0.5]]


def test_relative_links_resolve(checkout, readme):
    targets = re.findall(r"\]\(([^)]+)\)", readme)
    relative = [t for t in targets if not re.match(r"https?://|#", t)]
    assert relative
    for target in relative:
        assert (checkout / target.partition("#")[0]).exists(), target


def test_rooms_of_its_map_are_rooms(checkout, readme):
    (drawing,) = re.findall(r"```\n(.*?)```", section(readme, "Map of rooms"), re.S)
    package = checkout / "energyflow_mlx"
    lines = drawing.splitlines()
    rooms = [re.split(r" {2,}", x.strip())[0] for x in lines if x.startswith("  ")]
    names = [name for part in rooms for name in part.split()]
    assert {"training/", "ops/", "readback/", "train"} <= set(names)
    for name in names:
        path = package / (name if name.endswith("/") else f"{name}.py")
        assert path.exists() or (package / name).is_dir(), name
    for name in lines[-1].split():
        assert (checkout / name).is_dir(), name


def test_results_name_machine_command_and_figure(readme):
    results = section(readme, "Results")
    assert "MLX 0.32" in results
    assert "| what | command | figure |" in results


def test_it_is_the_readme_of_the_package(checkout):
    text = (checkout / "pyproject.toml").read_text(encoding="utf-8")
    assert 'readme = "README.md"' in text


def test_no_line_wraps_in_a_terminal_where_it_need_not(readme):
    code = False
    for number, line in enumerate(readme.splitlines(), 1):
        code ^= line.startswith("```")
        if not code and not line.startswith("|"):
            assert len(line) <= 110, f"line {number}: {len(line)} characters"
