"""Whole folders that sentence-transformers saves give the vectors that it gives."""

import importlib.util

import numpy as np
import pytest

from energyflow_mlx.data.captions.generate import generate_captions
from energyflow_mlx.teacher import load_teacher
from tests.teacher.tiny import byte_pairs, unigram, word_pieces

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("sentence_transformers") is None,
        reason="needs the package sentence-transformers; it is not installed",
    ),
    pytest.mark.filterwarnings("ignore"),  # of packages that are not ours
]
TOLERANCE = 1e-5
LONGEST = 30
TEXTS = [*generate_captions(20, 3), "", "Ünïcode façade — ok?", "x" * 300]
SIZES = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
}
BERT = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep")}
ROBERTA = {
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "cls_token": "<s>",
    "sep_token": "</s>",
}
ROBERTA_IDS = {"pad_token_id": 1, "cls_token_id": 0, "sep_token_id": 2}
ENDS = {"bos_token_id": 0, "eos_token_id": 2}


@pytest.mark.parametrize(
    ("kind", "options", "make_tokenizer", "names", "pooling", "with_dense"),
    [
        ("BertConfig", {}, word_pieces, BERT, "mean", True),
        ("RobertaConfig", {"type_vocab_size": 1}, byte_pairs, ROBERTA, "mean", False),
        ("XLMRobertaConfig", {}, unigram, ROBERTA, "cls", True),
        ("MPNetConfig", {}, byte_pairs, ROBERTA, "mean", False),
        (
            "ModernBertConfig",
            {"local_attention": 8, **ROBERTA_IDS, **ENDS},
            byte_pairs,
            ROBERTA,
            "lasttoken",
            True,
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_vectors_equal_those_of_sentence_transformers(
    tmp_path, kind, options, make_tokenizer, names, pooling, with_dense
):
    import transformers

    tokenizer = make_tokenizer()
    size = tokenizer.get_vocab_size()
    config = getattr(transformers, kind)(vocab_size=size, **SIZES, **options)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    fast.save_pretrained(tmp_path / "model")
    drawn(config).save_pretrained(tmp_path / "model")
    theirs = composed(tmp_path / "model", pooling, with_dense=with_dense)
    theirs.save(str(tmp_path / "saved"))
    for prompt in (None, "query"):
        ours = load_teacher(tmp_path / "saved", LONGEST, normalize=True, prompt=prompt)
        expected = theirs.encode(TEXTS, prompt_name=prompt, show_progress_bar=False)
        assert np.abs(ours.encode(TEXTS) - expected).max() < TOLERANCE


def drawn(config):
    """A model of random weights everywhere."""
    import torch
    import transformers

    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(config).eval()
    for parameter in model.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    return model


def composed(folder, pooling, *, with_dense):
    """A sentence encoder of a saved Transformer."""
    import sentence_transformers
    from sentence_transformers.sentence_transformer import modules

    stages = [
        modules.Transformer(str(folder), max_seq_length=LONGEST),
        modules.Pooling(SIZES["hidden_size"], pooling_mode=pooling),
    ]
    if with_dense:
        stages.append(modules.Dense(SIZES["hidden_size"], 12))
    return sentence_transformers.SentenceTransformer(
        modules=[*stages, modules.Normalize()],
        prompts={"query": "find: ", "document": "doc: "},
        device="cpu",
    )
