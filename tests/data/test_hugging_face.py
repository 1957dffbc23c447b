"""A column of a Hugging Face dataset, wherever the dataset is, and what is refused."""

import importlib.util

import pytest

from energyflow_mlx.build.sentences import read_sets
from energyflow_mlx.config import Config, DataConfig
from energyflow_mlx.data import hugging_face
from energyflow_mlx.data.hugging_face import read_column
from energyflow_mlx.errors import InputError

needs_datasets = pytest.mark.skipif(
    importlib.util.find_spec("datasets") is None,
    reason="needs the package datasets, the extra hf; it is not installed",
)
ROWS = {
    "sentence": ["A dog runs.", "  Two cats sleep. ", "", None, "It rains."],
    "label": [1, 2, 3, 4, 5],
}
TEXTS = ["A dog runs.", "Two cats sleep.", "It rains."]


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    """The package, with its cache in a folder of the test's."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    return datasets


@pytest.fixture
def written(tmp_path, datasets):
    """A dataset in every form that is on a disk, by the form's name."""
    rows = datasets.Dataset.from_dict(ROWS)
    rows.save_to_disk(tmp_path / "saved")
    other = datasets.Dataset.from_dict({"sentence": ["Held out."], "label": [0]})
    both = datasets.DatasetDict({"train": rows, "validation": other})
    both.save_to_disk(tmp_path / "splits")
    (tmp_path / "files").mkdir()
    rows.to_parquet(tmp_path / "files" / "train.parquet")
    rows.to_parquet(tmp_path / "a.parquet")
    (arrow,) = (tmp_path / "saved").glob("*.arrow")
    forms = {name: tmp_path / name for name in ("saved", "splits", "files")}
    return forms | {"parquet": tmp_path / "a.parquet", "arrow": arrow}


@needs_datasets
@pytest.mark.parametrize("form", ["saved", "splits", "files", "parquet", "arrow"])
def test_the_column_is_read_from_every_form(written, form):
    assert read_column(str(written[form]), "sentence", split="train") == TEXTS


@needs_datasets
def test_train_and_val_take_their_splits(written):
    path = str(written["splits"])
    data = DataConfig(train=path, val=path, format="hf", column="sentence")
    train, held_out, source = read_sets(Config(data=data))
    assert (train.texts, held_out.texts) == (TEXTS, ["Held out."])
    assert source == "splits"
    data = DataConfig(
        train=path, val=path, format="hf", column="sentence", split="validation",
        val_split="train",
    )  # fmt: skip
    train, held_out, _ = read_sets(Config(data=data))
    assert (train.texts, held_out.texts) == (["Held out."], TEXTS)


@needs_datasets
def test_a_share_of_one_split_is_held_out(written):
    data = DataConfig(
        train=str(written["saved"]), format="hf", column="sentence", val_fraction=0.5
    )
    train, held_out, _ = read_sets(Config(data=data))
    assert sorted(train.texts + held_out.texts) == sorted(TEXTS)
    assert train.texts and held_out.texts


@needs_datasets
@pytest.mark.parametrize(
    ("form", "column", "split", "message"),
    [
        ("saved", "text", "train", "column must be one of sentence, label, got 'text'"),
        ("saved", "label", "train", "row 0 of column 'label' must be a text, got int"),
        ("splits", "sentence", "test", "must be one of train, validation, got 'test'"),
        ("files", "sentence", "test", "no dataset: "),
    ],
)
def test_a_wrong_column_or_split_is_named(written, form, column, split, message):
    with pytest.raises(InputError, match=message):
        read_column(str(written[form]), column, split=split)


@needs_datasets
def test_what_is_no_dataset_is_refused(tmp_path, datasets):
    (tmp_path / "a.csv").write_text("text\nA dog runs.\n")
    with pytest.raises(InputError, match=r"a.csv: no dataset: .*parquet or .arrow"):
        read_column(str(tmp_path / "a.csv"), "text", split="train")
    with pytest.raises(InputError, match="nobody/nothing: no dataset: "):
        read_column("nobody/nothing", "text", split="train")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(InputError, match=r"a.parquet: no dataset: "):
        read_column(str(tmp_path / "a.parquet"), "text", split="train")
    blank = datasets.Dataset.from_dict({"text": ["", "  "]})
    blank.save_to_disk(tmp_path / "blank")
    with pytest.raises(InputError, match="column 'text' has no text"):
        read_column(str(tmp_path / "blank"), "text", split="train")


def test_without_the_package_the_command_that_installs_it_is_said(monkeypatch):
    monkeypatch.setattr(hugging_face, "_PACKAGE", "no_such_package_here")
    with pytest.raises(InputError, match="pip install no_such_package_here"):
        read_column("name", "text", split="train")
