"""The model card says what the hub's programs read, and what people must know."""

import re

import pytest
import yaml

from energyflow_mlx.config.data import EditsConfig
from energyflow_mlx.data.captions import generate_captions
from energyflow_mlx.inference import SentenceCodec
from energyflow_mlx.inference.formats.card import CardFacts, front_matter
from tests.build.tiny import make_codec as make_other
from tests.build.tiny import make_config

FACTS = CardFacts(
    name="my-model",
    language="de",
    license="mit",
    datasets=["someone/sentences"],
    spearman={"stsb_test": 76.213, "sickr_test": 73.2},
    held_out={"cosine": 0.95},
)


def card_of(folder):
    """Front matter and text of the folder's card."""
    text = (folder / "README.md").read_text(encoding="utf-8")
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("card") / "m"
    make_other().save_pretrained(folder, dtype="float16", facts=FACTS)
    return folder


def test_fields_are_those_that_were_given(folder):
    front, _ = card_of(folder)
    known = {k: front[k] for k in ("language", "license", "datasets", "base_model")}
    assert known == {
        "language": "de",
        "license": "mit",
        "datasets": ["someone/sentences"],
        "base_model": "sentence-transformers/all-MiniLM-L6-v2",
    }
    assert front["library_name"] == "energyflow-mlx"
    assert "sentence-embeddings" in front["tags"]
    (model,) = front["model-index"]
    figures = {r["dataset"]["name"]: r["metrics"][0]["value"] for r in model["results"]}
    assert figures == {"stsb_test": 76.21, "sickr_test": 73.2}


def test_the_hubs_client_parses_it_and_its_results(folder):
    client = pytest.importorskip("huggingface_hub", reason="needs the extra hub")
    card = client.ModelCard.load(folder / "README.md")
    assert (card.data.model_name, card.data.license) == ("my-model", "mit")
    by_name = {result.dataset_name: result for result in card.data.eval_results}
    assert by_name["stsb_test"].metric_value == 76.21
    assert by_name["stsb_test"].metric_type == "spearman_cosine"


def test_the_text_has_use_sizes_figures_and_limits(folder):
    _, body = card_of(folder)
    assert body.startswith("\n# my-model\n")
    for title in ("Use", "Contents", "Training", "Figures", "Limits"):
        assert f"\n## {title}\n" in body, title
    size = (folder / "model.safetensors").stat().st_size
    assert f"| `model.safetensors` | {size:,} |" in body
    assert "| Spearman x 100, stsb_test | 76.21 |" in body
    assert "float16 weights: mean cosine with float32" in body
    assert "Decoding is lossy" in body


def test_the_card_measures_what_few_bits_cost(tmp_path):
    codec = make_other(make_config(encoder__dim=64, encoder__hidden=64, share="none"))
    found = {}
    for dtype in ("int8", "int4"):
        codec.save_pretrained(tmp_path / dtype, dtype=dtype)
        _, body = card_of(tmp_path / dtype)
        (found[dtype],) = re.findall(r"mean cosine .* \| (0\.\d+) \|", body)
        other = SentenceCodec.from_pretrained(tmp_path / dtype)
        texts = generate_captions(200, seed=0)
        cosines = codec.similarity_pairwise(codec.encode(texts), other.encode(texts))
        assert abs(float(found[dtype]) - cosines.mean()) < 1e-5
    assert 0.8 < float(found["int4"]) < float(found["int8"]) < 1


def test_without_figures_or_datasets_there_are_no_such_fields():
    front = front_matter(make_config(), CardFacts())
    assert front.keys() & {"datasets", "metrics", "model-index"} == set()
    assert front["license"] == "unknown"


def test_a_teacher_that_is_no_hub_model_is_no_base_model(tmp_path):
    config = make_config(teacher__name=str(tmp_path))
    assert "base_model" not in front_matter(config, CardFacts())


@pytest.mark.parametrize(
    ("of", "edited"),
    [(None, "from these"), (["texts/a.txt"], "from those of a.txt")],
)
def test_the_card_tells_real_sentences_from_edited_ones(tmp_path, of, edited):
    files = ["texts/a.txt", "b.txt"]
    config = make_config(data__train=files, data__edits=EditsConfig(3000, of))
    config.data.__post_init__()
    make_other(config).save_pretrained(tmp_path / "m")
    _, body = card_of(tmp_path / "m")
    said = f"- sentences: a.txt, b.txt; 3,000 more, edited {edited} by a program\n"
    assert said in body


def test_usage_names_only_what_the_model_can(tmp_path):
    make_other(parts={"encoder", "shared"}).save_pretrained(tmp_path / "e")
    _, body = card_of(tmp_path / "e")
    assert "ef.encode(" in body and "ef.decode(" not in body
    make_other(parts={"decoder", "shared"}).save_pretrained(tmp_path / "d")
    _, body = card_of(tmp_path / "d")
    assert "ef.encode(" not in body
