"""The model card: README.md of an exported folder, as the Hugging Face hub reads it.

Front matter between two lines of dashes is YAML; the hub's search, its widgets and its
tables of results come from there. The text below it is for people.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from energyflow_mlx.config import Config, DataConfig
from energyflow_mlx.inference.formats.folder import CARD, Pretrained, teacher_name
from energyflow_mlx.model import count_parameters
from energyflow_mlx.runs.dtypes import BITS
from energyflow_mlx.runtime import hub

# Hub names of the teachers that have a short name here.
_ON_HUB = {"minilm": "sentence-transformers/all-MiniLM-L6-v2"}
_TAGS = ("sentence-embeddings", "feature-extraction", "energyflow", "mlx")


@dataclass(frozen=True)
class CardFacts:
    """What a card says beside what the model knows of itself.

    Attributes:
        name: Title of the card; none = the run's name.
        language: Code of the sentences' language.
        license: License of the weights as the hub spells it, such as ``mit``; it
            follows from the training sentences and the teacher.
        datasets: Training sets on the hub, ``user/name`` each.
        spearman: Spearman x 100 on STS sets, by the set's name.
        held_out: Figures on held-out sentences, by name.
        closeness: Cosines of stored weights' vectors with the float32 ones', by name.
    """

    name: str | None = None
    language: str = "en"
    license: str = "unknown"
    datasets: Sequence[str] = ()
    spearman: Mapping[str, float] = field(default_factory=dict)
    held_out: Mapping[str, float] = field(default_factory=dict)
    closeness: Mapping[str, float] = field(default_factory=dict)


def write_card(
    folder: Path,
    source: Pretrained,
    dtype: str,
    facts: CardFacts,
    usage: str | None = None,
) -> None:
    """Write ``README.md`` into a folder whose other files are there.

    Args:
        folder: The folder; the card lists its files with their sizes.
        source: The model.
        dtype: Precision of the weights.
        facts: What the user says of it, and its figures.
        usage: A section on use, in place of that with this package.
    """
    title = facts.name or source.config.name
    parts = [
        f"---\n{_yaml(front_matter(source.config, facts))}---",
        f"# {title}",
        _purpose(source),
        usage or _usage(source),
        _contents(folder, source, dtype),
        _training(source, facts),
        _figures(facts, dtype),
        _limits(source),
    ]
    text = "\n\n".join(part.strip() for part in parts if part)
    (folder / CARD).write_text(text + "\n", encoding="utf-8")


def front_matter(config: Config, facts: CardFacts) -> dict[str, Any]:
    """The card's fields for programs."""
    name, teacher = facts.name or config.name, teacher_name(config)
    base = _ON_HUB.get(teacher, teacher)
    values: dict[str, Any] = {
        "language": facts.language,
        "license": facts.license,
        "library_name": "energyflow-mlx",
        "pipeline_tag": "sentence-similarity",
        "tags": list(_TAGS),
    }
    if teacher in _ON_HUB or hub.is_hub_id(base):
        values["base_model"] = base
    if facts.datasets:
        values["datasets"] = list(facts.datasets)
    if facts.spearman:
        values["metrics"] = ["spearmanr"]
        results = [_result(*entry) for entry in facts.spearman.items()]
        values["model-index"] = [{"name": name, "results": results}]
    return values


def _result(name: str, value: float) -> dict[str, Any]:
    """One set's figure as the hub's tables of results want it."""
    kind = {"type": "semantic-similarity", "name": "Semantic Textual Similarity"}
    metric = {"type": "spearman_cosine", "name": "Spearman x 100 of the cosine"}
    return {
        "task": kind,
        "dataset": {"type": name.replace("_", "-"), "name": name},
        "metrics": [metric | {"value": round(value, 2)}],
    }


def _yaml(values: Mapping[str, Any]) -> str:
    import yaml

    text: str = yaml.safe_dump(
        values, sort_keys=False, allow_unicode=True, default_flow_style=False
    )
    return text


def _purpose(source: Pretrained) -> str:
    does = []
    if "encoder" in source.model:
        does.append(f"turns a sentence into a vector of {source.dimension} numbers")
    if "decoder" in source.model:
        does.append("turns such a vector back into text")
    if not does:
        does.append(f"maps vectors of {source.dimension} numbers to such vectors")
    teacher = teacher_name(source.config)
    sentence = f"A small attention-free network that {' and '.join(does)}. "
    return "\n".join(
        textwrap.wrap(
            f"{sentence}It was distilled from {_ON_HUB.get(teacher, teacher)}, in "
            "whose space its vectors lie, with energyflow_mlx.",
            width=88,
            break_long_words=False,
            break_on_hyphens=False,
        )
    )


def _usage(source: Pretrained) -> str:
    lines = ["import energyflow_mlx", "", 'ef = energyflow_mlx.load("PATH")']
    if "encoder" in source.model:
        lines.append('vectors = ef.encode(["A dog runs.", "A cat sleeps."])')
        lines.append("print(ef.similarity(vectors, vectors))")
        if "decoder" in source.model:
            lines.append("print(ef.decode(vectors, max_length=32))")
    code = "\n".join(lines)
    return (
        "## Use\n\n`PATH` is this folder, or `user/name` on the Hugging Face hub "
        "(needs `pip install 'energyflow-mlx[hub]'`).\n\n"
        f"```python\n{code}\n```"
    )


def _contents(folder: Path, source: Pretrained, dtype: str) -> str:
    files = sorted(path for path in folder.iterdir() if path.name != CARD)
    rows = [f"| `{path.name}` | {path.stat().st_size:,} |" for path in files]
    counts = count_parameters(source.model)
    parts = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    table = "\n".join(["| File | Bytes |", "|---|---|", *rows])
    return f"## Contents\n\nWeights in {dtype}. Parameters: {parts}.\n\n{table}"


def _training(source: Pretrained, facts: CardFacts) -> str:
    config, teacher = source.config, teacher_name(source.config)
    return (
        "## Training\n\n"
        f"- teacher: {_ON_HUB.get(teacher, teacher)}\n"
        f"- sentences: {_sentences(config.data)}\n"
        f"- language: {facts.language}\n"
        f"- license: {facts.license}\n"
        f"- vocabulary: {source.tokenizer.vocab_size:,} tokens\n"
        f"- longest sentence: {config.data.max_length} tokens; longer ones are cut"
    )


def _sentences(data: DataConfig) -> str:
    """What a model was trained on, for the card: files or captions, and their edits."""
    files = ", ".join(Path(path).name for path in data.train)
    given = files or f"{data.captions:,} built-in captions, made by a program"
    if not data.edits.count:
        return given
    named = ", ".join(Path(path).name for path in data.edits.of)
    edited = f"from those of {named}" if named else "from these"
    return f"{given}; {data.edits.count:,} more, edited {edited} by a program"


def _figures(facts: CardFacts, dtype: str) -> str:
    rows = [f"| Spearman x 100, {k} | {v:.2f} |" for k, v in facts.spearman.items()]
    rows += [
        f"| held-out sentences: {k} | {v:.4f} |" for k, v in facts.held_out.items()
    ]
    measured = bool(rows)
    rows += [f"| {dtype} weights: {k} | {v:.6f} |" for k, v in facts.closeness.items()]
    if not rows:
        return ""
    note = ""
    if measured and dtype in BITS:
        note = (
            "\n\nFigures of tasks were measured with the float32 weights; how close "
            f"vectors of the {dtype} weights come to theirs stands last."
        )
    table = "\n".join(["| Measure | Figure |", "|---|---|", *rows])
    return f"## Figures\n\n{table}{note}"


def _limits(source: Pretrained) -> str:
    lines = ["Text unlike the training sentences is encoded less well, and with more "
             "tokens, where the vocabulary was cut to them."]  # fmt: skip
    if "decoder" in source.model:
        lines.append("Decoding is lossy: names, numbers and rare words often change.")
    lines.append("The vectors carry the biases of the teacher and of the sentences.")
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)
