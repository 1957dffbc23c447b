"""Config of the objectives: one dataclass each, all optional members of one group.

``objectives: {distillation: {share: 0.5, lr: 3e-3}, reconstruction: {...}}`` says what
a run trains. A member that is null is not trained. The group is a dataclass, so that a
misspelt key fails; its members are the settings registered here, so that an objective
can be added without touching this package.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

from energyflow_mlx.config.checks import (
    COLDEST,
    COUNT,
    HOTTEST,
    LARGE,
    MOST_RATE,
    WIDTH,
    require,
    require_choice,
    require_range,
    require_share,
)
from energyflow_mlx.config.own_pairs import (
    EMBEDDERS,
    MOST_HELD,
    MOST_NOISE,
    MOST_SAMPLED,
)

_Settings = TypeVar("_Settings", bound="type[ObjectiveConfig]")
_REGISTERED: dict[str, "type[ObjectiveConfig]"] = {}
# How cosines between sentences are compared with the teacher's.
SIMILARITY = ("mse", "kl")


@dataclass
class ObjectiveConfig:
    """What every objective has.

    Attributes:
        share: Its part of the updates, relative to the other objectives' shares.
        lr: Peak learning rate of its updates; none = ``optimizer.lr``, which the
            whole configuration then puts here.
    """

    share: float = 1.0
    lr: float | None = None

    @property
    def key(self) -> str:
        """Config key of these settings."""
        names = (n for n, kind in _REGISTERED.items() if kind is type(self))
        return f"objectives.{next(names)}"

    @property
    def reads_whole_tables(self) -> bool:
        """Whether updates read rows of tokens that neither occur nor are candidates."""
        return False

    @property
    def peak_lr(self) -> float:
        """The learning rate, in a whole configuration."""
        assert self.lr is not None, f"{self.key}.lr is not settled"
        return self.lr

    def __post_init__(self) -> None:
        """Check ranges."""
        self.require_positive("share")
        if self.lr is not None:
            require_range(self.lr, f"{self.key}.lr", 0, MOST_RATE, is_open=True)

    def require_not_negative(self, *names: str) -> None:
        """Refuse a weight or a size below 0."""
        for name in names:
            require_range(getattr(self, name), f"{self.key}.{name}", 0, LARGE)

    def require_positive(self, *names: str) -> None:
        """Refuse a share, a rate or a temperature that is not above 0."""
        for name in names:
            value, key = getattr(self, name), f"{self.key}.{name}"
            require_range(value, key, 0, LARGE, is_open=True)


def objective_settings(name: str) -> Callable[[_Settings], _Settings]:
    """Register a dataclass as the settings of the objective called ``name``."""

    def register(settings: _Settings) -> _Settings:
        _REGISTERED[name] = settings
        return settings

    return register


def objectives_type() -> type:
    """Dataclass of the group: an optional member for every registered objective."""
    return _group(tuple(_REGISTERED.items()))


@cache
def _group(members: tuple[tuple[str, "type[ObjectiveConfig]"], ...]) -> type:
    fields: list[Any] = [
        (name, settings | None, dataclasses.field(default=None))
        for name, settings in members
    ]
    return dataclasses.make_dataclass("ObjectivesConfig", fields)


def default_objectives() -> Any:
    """The main job: distillation and reconstruction in turn."""
    return objectives_type()(
        distillation=DistillationConfig(), reconstruction=ReconstructionConfig()
    )


def chosen_objectives(group: Any) -> dict[str, ObjectiveConfig]:
    """Settings of the objectives that a group trains, by name."""
    members = {f.name: getattr(group, f.name) for f in dataclasses.fields(group)}
    return {name: settings for name, settings in members.items() if settings}


@dataclass
class VectorDistanceConfig(ObjectiveConfig):
    """Weights of the terms that measure a vector against its target.

    Attributes:
        cosine: Weight of ``1 - cos``.
        mse: Weight of the mean squared error. On unit vectors of 384 numbers the plain
            error is about 0.002, hence the large weight.
        contrastive: Weight of the in-batch contrastive term.
        temperature: Divides the cosines of the contrastive term.
    """

    cosine: float = 1.0
    mse: float = 100.0
    contrastive: float = 0.0
    temperature: float = 0.05

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        self.require_not_negative("cosine", "mse", "contrastive")
        self.require_positive("temperature")
        require(
            self.cosine + self.mse + self.contrastive > 0,
            f"{self.key}.cosine",
            "positive when mse and contrastive are 0",
            self.cosine,
        )


@objective_settings("distillation")
@dataclass
class DistillationConfig(VectorDistanceConfig):
    """The student's vector against the teacher's (mode A).

    Attributes:
        similarity_weight: Weight of the term that compares the cosines between the
            sentences of a micro-batch with the teacher's.
        similarity_kind: How it compares them: ``mse`` or ``kl``.
        similarity_temperature: Divides the cosines where the comparison is ``kl``.
        matryoshka: Sizes d, ascending: the cosines of the first d numbers are compared
            with those of the teacher's whole vectors.
        matryoshka_weights: Weight of each size; none given = 1 each.
    """

    similarity_weight: float = 0.0
    similarity_kind: str = "mse"
    similarity_temperature: float = 0.05
    matryoshka: list[int] = field(default_factory=list)
    matryoshka_weights: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        self.require_not_negative("similarity_weight")
        require_choice(self.similarity_kind, f"{self.key}.similarity_kind", SIMILARITY)
        self.require_positive("similarity_temperature")
        sizes, weights = list(self.matryoshka), list(self.matryoshka_weights)
        ascending = sizes == sorted(set(sizes)) and all(size >= 2 for size in sizes)
        require(ascending, f"{self.key}.matryoshka", "ascending sizes >= 2", sizes)
        for size in sizes:
            require_range(size, f"{self.key}.matryoshka", 2, WIDTH)
        require(
            len(weights) in (0, len(sizes)) and all(0 < w <= LARGE for w in weights),
            f"{self.key}.matryoshka_weights",
            f"empty or {len(sizes)} numbers > 0, one for each size",
            weights,
        )

    def weight_of_size(self) -> dict[int, float]:
        """Weight of each size of ``matryoshka``."""
        weights = self.matryoshka_weights or [1.0] * len(self.matryoshka)
        return dict(zip(self.matryoshka, weights, strict=True))


@dataclass
class ThroughLatticeConfig(VectorDistanceConfig):
    """What the objectives that go through the lattice have in common.

    Attributes:
        surface: Weight of the mean squared error between the surface the lattice gives
            out and the mapper's image of the target; the image has no gradient.
        mask: Share of the cells whose energy is hidden at launch in training, [0, 1):
            the whole is to come out of what is left (denoising).
        births: Weight of what children cost by the learned rule: their weights, over
            the slots for children, above what is free.
        births_free: What they may weigh at no cost, over the slots: below it nothing
            drives the last births out.
        births_after: Updates in which they cost nothing, so that births can become
            useful.
        births_over: Updates after those over which the cost rises to its weight.
    """

    surface: float = 0.0
    mask: float = 0.0
    births: float = 0.0
    births_free: float = 0.0
    births_after: int = 0
    births_over: int = 0

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        self.require_not_negative("surface", "births")
        require_share(self.births_free, f"{self.key}.births_free")
        for name in ("births_after", "births_over"):
            require_range(getattr(self, name), f"{self.key}.{name}", 0)
        require_share(self.mask, f"{self.key}.mask")


@objective_settings("flow")
@dataclass
class FlowConfig(ThroughLatticeConfig):
    """A vector through the lattice and back.

    Attributes:
        noise: Length of a random vector added to the unit source vector in training:
            the clean one is to come out (sharpening).
    """

    noise: float = 0.0

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        self.require_not_negative("noise")


@objective_settings("flow_text")
@dataclass
class FlowTextConfig(ThroughLatticeConfig):
    """A sentence through encoder and lattice to the teacher's vector and back to text.

    Attributes:
        text: Weight of the cross entropy decoded from the lattice's vector.
        label_smoothing: Share of each target spread over the vocabulary, [0, 1).
    """

    text: float = 0.2
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        self.require_not_negative("text")
        require_share(self.label_smoothing, f"{self.key}.label_smoothing")


@objective_settings("reconstruction")
@dataclass
class ReconstructionConfig(ObjectiveConfig):
    """The sentence from the teacher's vector (mode B).

    Attributes:
        label_smoothing: Share of each target spread over the vocabulary, [0, 1).
        student_ce: Weight of the cross entropy decoded from the student's own vector.
        cycle: Weight of ``1 - cos`` between the student's vectors of the text that is
            written and of the sentence; the student is fixed there.
        latent_noise: Length of a random vector added to the unit target vector before
            decoding, in training only.
    """

    label_smoothing: float = 0.0
    student_ce: float = 0.0
    cycle: float = 0.0
    latent_noise: float = 0.0

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        self.require_not_negative("student_ce", "cycle", "latent_noise")
        require_share(self.label_smoothing, f"{self.key}.label_smoothing")

    @property
    def reads_whole_tables(self) -> bool:
        """Every token is a part of what is written."""
        return self.cycle > 0


@objective_settings("correction")
@dataclass
class CorrectionConfig(ObjectiveConfig):
    """The sentence from the teacher's vector and a guess of the decoder's own.

    Attributes:
        label_smoothing: Share of each target spread over the vocabulary, [0, 1).
        every: Updates after which guesses are made, with the weights of that moment.
        count: Sentences that are guessed at each time.
        kept: Newest guesses kept, in memory and with every checkpoint.
        temperature: Of the guesses; 0 = greedy.
        noise: Length of a random vector added to the unit target vector that a guess
            is decoded from: a decoder that knows its sentences by heart still errs.
        embedder: Whose vectors guesses and the sentences that they are at have:
            ``teacher`` or ``student``.
        own: Share of the sentences guessed at that are own pairs, [0, 1], while
            there are enough; they are new to the decoder, so no noise is added.
    """

    label_smoothing: float = 0.0
    every: int = 100
    count: int = 1024
    kept: int = 8192
    temperature: float = 0.7
    noise: float = 0.7
    embedder: str = "teacher"
    own: float = 0.0

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        require_share(self.label_smoothing, f"{self.key}.label_smoothing")
        require_choice(self.embedder, f"{self.key}.embedder", EMBEDDERS)
        for name, least, most in (
            ("every", 1, COUNT),
            ("count", 1, MOST_SAMPLED),
            ("kept", 1, MOST_HELD),
            ("temperature", COLDEST if self.temperature else 0, HOTTEST),
            ("noise", 0, MOST_NOISE),
            ("own", 0, 1),
        ):
            require_range(getattr(self, name), f"{self.key}.{name}", least, most)
        expected = f">= {self.key}.count = {self.count}"
        require(self.kept >= self.count, f"{self.key}.kept", expected, self.kept)


@objective_settings("paraphrase")
@dataclass
class ParaphraseConfig(ObjectiveConfig):
    """The sentences of a pair near each other, by an in-batch contrastive loss.

    Attributes:
        file: Pairs: ``.tsv`` of ``sentence<TAB>sentence`` lines, or ``.jsonl`` with
            ``text`` and ``pair_target``.
        temperature: Divides the cosines.
    """

    file: str | None = None
    temperature: float = 0.05

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        self.require_positive("temperature")


@objective_settings("surface")
@dataclass
class SurfaceConfig(ObjectiveConfig):
    """The encoder's surface of a sentence and the mapper's of its vector made alike.

    Attributes:
        learns: The side that is fitted: ``encoder`` to the mapper's surfaces, so that
            a lattice takes sentences too; ``mapper`` to the encoder's, so that one that
            takes sentences takes vectors too. The other side is the target.
        target: That side as it is, ``current``, or its moving average, ``average``:
            other objectives that train it then move the target slowly. The average is
            the one that the run keeps, with ``trainer.ema``.
    """

    learns: str = "encoder"
    target: str = "current"

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        require_choice(self.learns, f"{self.key}.learns", ("encoder", "mapper"))
        require_choice(self.target, f"{self.key}.target", ("current", "average"))
