"""Config of losses, optimiser, precision and trainer: types, ranges, units."""

from dataclasses import dataclass, field

from energyflow_mlx.config.checks import require, require_choice, require_share

METRICS = ("cosine", "mse", "ce", "p_at_1")
TRAINED = ("all", "last_block", "projection", "flow")
LOWER_IS_BETTER = ("mse", "ce")


@dataclass
class LossConfig:
    """Weights of the objectives' terms.

    Attributes:
        cosine: Weight of ``1 - cos`` in distillation.
        mse: Weight of the mean squared error in distillation. On unit vectors of
            384 numbers the plain error is about 0.002, hence the large weight.
        contrastive: Weight of the in-batch contrastive term in distillation.
        temperature: Of the contrastive term.
        label_smoothing: In reconstruction, [0, 1).
        student_ce: Weight of the cross entropy decoded from the student's own
            vector, in reconstruction.
        text: Weight of the cross entropy decoded from the lattice's vector, in
            ``task=flow_text``.
        surface: Weight of the mean squared error between the surface the lattice
            gives out and the mapper's image of the target, in the flow tasks; the
            image has no gradient.
        candidates: Train the decoder's softmax over this many tokens an update,
            those that occur and drawn negatives, instead of the whole vocabulary;
            0 = the whole. Validation always uses the whole.
        latent_noise: Length of a random vector added to the unit target vector
            before decoding, in training only.
    """

    cosine: float = 1.0
    mse: float = 100.0
    contrastive: float = 0.0
    temperature: float = 0.05
    label_smoothing: float = 0.0
    student_ce: float = 0.0
    text: float = 0.2
    surface: float = 0.0
    candidates: int = 0
    latent_noise: float = 0.0

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in (
            "cosine",
            "mse",
            "contrastive",
            "student_ce",
            "latent_noise",
            "text",
            "surface",
        ):
            value = getattr(self, name)
            require(value >= 0, f"loss.{name}", ">= 0", value)
        require(self.candidates >= 0, "loss.candidates", ">= 0", self.candidates)
        require(self.temperature > 0, "loss.temperature", "> 0", self.temperature)
        require_share(self.label_smoothing, "loss.label_smoothing")
        require(
            self.cosine + self.mse + self.contrastive > 0,
            "loss.cosine",
            "positive when loss.mse and loss.contrastive are 0",
            self.cosine,
        )


@dataclass
class OptimizerConfig:
    """AdamW with decoupled decay, warm-up and cosine decay.

    Attributes:
        lr: Peak learning rate of distillation.
        decoder_lr: Peak learning rate of reconstruction.
        min_lr: Learning rate at the end of the decay, of both.
        warmup_steps: Updates of linear warm-up, counted per objective.
        decay_steps: Updates of cosine decay after it; 0 = until the last update.
        weight_decay: Decoupled decay of matrices (never biases, norms, tables).
        betas: Decay rates of the two moments.
        eps: Added to the root of the second moment.
        clip_norm: Global L2 bound of one update's gradients; 0 = off.
        lazy_rows: Step only the token-table rows a batch touches.
    """

    lr: float = 1e-3
    decoder_lr: float = 1e-3
    min_lr: float = 1e-5
    warmup_steps: int = 100
    decay_steps: int = 0
    weight_decay: float = 0.01
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    eps: float = 1e-8
    clip_norm: float = 1.0
    lazy_rows: bool = True

    def __post_init__(self) -> None:
        """Check ranges."""
        require(self.lr > 0, "optimizer.lr", "> 0", self.lr)
        require(self.decoder_lr > 0, "optimizer.decoder_lr", "> 0", self.decoder_lr)
        require(
            0 <= self.min_lr <= min(self.lr, self.decoder_lr),
            "optimizer.min_lr",
            "in [0, lr]",
            self.min_lr,
        )
        require(self.warmup_steps >= 0, "optimizer.warmup_steps", ">= 0", None)
        require(self.decay_steps >= 0, "optimizer.decay_steps", ">= 0", None)
        require(self.weight_decay >= 0, "optimizer.weight_decay", ">= 0", None)
        require(
            len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas),
            "optimizer.betas",
            "two numbers in [0, 1)",
            self.betas,
        )
        require(self.eps > 0, "optimizer.eps", "> 0", self.eps)
        require(self.clip_norm >= 0, "optimizer.clip_norm", ">= 0", self.clip_norm)


@dataclass
class PrecisionConfig:
    """Number format of forward and backward; master weights stay float32.

    Attributes:
        dtype: ``float32``, ``bfloat16`` or ``float16``. On CPU only float32 is fast.
        loss_scale: Start of the dynamic loss scale; used with float16 only.
        scale_interval: Good updates after which the scale doubles.
    """

    dtype: str = "float32"
    loss_scale: float = 1024.0
    scale_interval: int = 2000

    def __post_init__(self) -> None:
        """Check ranges."""
        require_choice(
            self.dtype, "precision.dtype", ("float32", "bfloat16", "float16")
        )
        require(
            1.0 <= self.loss_scale <= 65536.0,
            "precision.loss_scale",
            "in [1, 65536]",
            self.loss_scale,
        )
        require(self.scale_interval >= 1, "precision.scale_interval", ">= 1", None)


@dataclass
class TrainerConfig:
    """How long, how often, and which part trains.

    Attributes:
        ratio: Share of updates that are distillation (mode A), [0, 1]; the rest
            are reconstruction (mode B).
        epochs: Passes over the training sentences (each sentence once a pass, by
            one of the two modes).
        max_steps: Stop after this many updates; 0 = by epochs.
        micro_batch: Sentences per forward and backward.
        accumulate: Micro-batches per update; N micro-batches equal one N times
            larger batch.
        train: ``all``, ``last_block`` (last block and projection), ``projection`` or
            ``flow`` (the lattice's neuron and carrier between fixed ends).
        log_every: Updates between progress records.
        validate_every: Updates between validations; 0 = once an epoch.
        save_every: Updates between checkpoints; 0 = at every validation.
        keep: Newest checkpoints kept beside the best one.
        best_metric: Validation metric that chooses the best checkpoint.
        patience: Validations without improvement before stopping; 0 = never.
        min_delta: Smallest change that counts as improvement.
        decode_samples: Held-out sentences decoded greedily at the end; 0 = none.
        backend: ``auto``, ``cpu``, ``metal`` or ``cuda``.
        compile: Compile each step (off for debugging only).
        debug_timing: Evaluate and time every deferred label.
        memory_limit_gb: Allocator limit in GiB; 0 = MLX's own.
    """

    ratio: float = 0.5
    epochs: int = 4
    max_steps: int = 0
    micro_batch: int = 64
    accumulate: int = 1
    train: str = "all"
    log_every: int = 20
    validate_every: int = 0
    save_every: int = 0
    keep: int = 2
    best_metric: str = "cosine"
    patience: int = 0
    min_delta: float = 0.0
    decode_samples: int = 200
    backend: str = "auto"
    compile: bool = True
    debug_timing: bool = False
    memory_limit_gb: float = 0.0

    def __post_init__(self) -> None:
        """Check ranges."""
        require(0 <= self.ratio <= 1, "trainer.ratio", "in [0, 1]", self.ratio)
        for name in ("epochs", "micro_batch", "accumulate", "log_every", "keep"):
            value = getattr(self, name)
            require(value >= 1, f"trainer.{name}", ">= 1", value)
        for name in (
            "max_steps",
            "validate_every",
            "save_every",
            "patience",
            "min_delta",
            "decode_samples",
            "memory_limit_gb",
        ):
            value = getattr(self, name)
            require(value >= 0, f"trainer.{name}", ">= 0", value)
        require_choice(self.train, "trainer.train", TRAINED)
        require_choice(self.best_metric, "trainer.best_metric", METRICS)
        require_choice(
            self.backend, "trainer.backend", ("auto", "cpu", "metal", "cuda")
        )
