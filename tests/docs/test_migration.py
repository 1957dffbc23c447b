"""``migration.md`` has a row for every field of the reference trainer's JSON file."""

import re

from energyflow_mlx.config.store import CONF_FOLDER
from tests.docs.pages import PAGES, names_in, table_rows
from tests.docs.test_configuration import leaves

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
ROWS = table_rows(PAGES["docs/migration.md"], "Field")


def test_every_field_of_the_reference_trainer_has_one_row():
    fields = [name for row in ROWS for name in names_in(row[0])]
    assert sorted(fields) == sorted(REFERENCE_FIELDS)


def test_every_row_names_a_key_or_says_why_there_is_none():
    for field, here in ROWS:
        named = [name.partition("=")[0] for name in names_in(here)]
        has_key = any(name in leaves() for name in named)
        says_why = re.match(r"none\b.{10,}", here)
        assert has_key or says_why, f"{field}: {here}"


def test_experiments_it_names_exist():
    named = re.findall(r"\+experiment=(\w+)", PAGES["docs/migration.md"])
    assert named
    for name in named:
        assert (CONF_FOLDER / "experiment" / f"{name}.yaml").is_file(), name
