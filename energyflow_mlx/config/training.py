"""Config of optimizer, token rows, precision and trainer: types, ranges, units."""

from dataclasses import dataclass, field

from energyflow_mlx.config.checks import (
    MOST_RATE,
    require,
    require_choice,
    require_range,
    require_share,
)

# Choices of trainer.train and the prefixes of the parameters that then train.
_PROJECTIONS = ("encoder.head", "decoder.output")
TRAINED = {
    "all": ("",),
    "last_block": _PROJECTIONS,  # and the last block, shared or of each part
    "projection": _PROJECTIONS,
    "flow": ("lattice.flow",),
}
_OPTIMIZERS = ("adamw", "muon")
ON_DIVERGENCE = ("stop", "rollback")
LOG_LEVELS = ("debug", "info", "warning")
_MOST_GB = 2**20  # a pebibyte: what is above is a slip, and no number of bytes to MLX


@dataclass
class TokenRowsConfig:
    """How much of the vocabulary an update touches; see ``training.token_rows``.

    Attributes:
        lazy: Step only the rows of the token tables that a batch touches; they are
            gathered where that is faster than a pass over the table.
        candidates: Train the decoder's softmax over this many tokens an update, those
            that occur and drawn negatives, instead of the whole vocabulary; 0 = the
            whole. Validation always uses the whole.
    """

    lazy: bool = True
    candidates: int = 0

    def __post_init__(self) -> None:
        """Check ranges."""
        require_range(self.candidates, "token_rows.candidates", 0)


@dataclass
class OptimizerConfig:
    """AdamW or Muon with decoupled decay, warm-up and cosine decay.

    Attributes:
        kind: ``adamw``, or ``muon`` for the matrices inside encoder and decoder and
            AdamW for the rest; see ``training.muon``. Muon learns more in an update
            and computes more: for a GPU.
        lr: Peak learning rate of the objectives that have none of their own, at most
            100.
        min_lr: Learning rate at the end of every objective's decay.
        warmup_steps: Updates of linear warm-up, counted per objective.
        decay_steps: Updates of cosine decay after it; 0 = until the last update.
        weight_decay: Decoupled decay of matrices (never biases, norms, tables), at
            most 1 / learning rate.
        betas: Decay rates of the two moments, in [0, 1).
        eps: Added to the root of the second moment, 1e-15 to 1.
        momentum: Decay rate of Muon's momentum, [0, 1).
        clip_norm: Global L2 bound of one update's gradients; 0 = off.
    """

    kind: str = "adamw"
    lr: float = 1e-3
    min_lr: float = 1e-5
    warmup_steps: int = 100
    decay_steps: int = 0
    weight_decay: float = 0.01
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    eps: float = 1e-8
    momentum: float = 0.95
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in ("warmup_steps", "decay_steps", "weight_decay", "clip_norm"):
            require_range(getattr(self, name), f"optimizer.{name}", 0)
        require_range(self.lr, "optimizer.lr", 0, MOST_RATE, is_open=True)
        require_range(self.min_lr, "optimizer.min_lr", 0, MOST_RATE)
        require(
            len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas),
            "optimizer.betas",
            "two numbers in [0, 1)",
            self.betas,
        )
        # Far below it a gradient of 0 over a moment of 0 is not a number in float32.
        require_range(self.eps, "optimizer.eps", 1e-15, 1.0)
        require_choice(self.kind, "optimizer.kind", _OPTIMIZERS)
        require_share(self.momentum, "optimizer.momentum")


@dataclass
class PrecisionConfig:
    """Number format of forward and backward; master weights stay float32.

    Attributes:
        dtype: ``float32``, ``bfloat16`` or ``float16``. On CPU only float32 is fast.
            ``auto``, until the run begins: what the device does well.
        loss_scale: Start of the dynamic loss scale; used with float16 only.
        scale_interval: Good updates after which the scale doubles.
    """

    dtype: str = "float32"
    loss_scale: float = 1024.0
    scale_interval: int = 2000

    def __post_init__(self) -> None:
        """Check ranges."""
        require_choice(
            self.dtype, "precision.dtype", ("auto", "float32", "bfloat16", "float16")
        )
        require(
            1.0 <= self.loss_scale <= 65536.0,
            "precision.loss_scale",
            "in [1, 65536]",
            self.loss_scale,
        )
        require_range(self.scale_interval, "precision.scale_interval", 1)


@dataclass
class TrainerConfig:
    """How long, how often, and which part trains.

    Attributes:
        epochs: Passes over the training sentences (each sentence once a pass, by one
            of the objectives).
        max_steps: Stop after this many updates; 0 = by epochs.
        micro_batch: Sentences per forward and backward, of each process.
        accumulate: Micro-batches per update, of each process; N micro-batches equal
            one N times larger batch.
        train: ``all``, ``last_block`` (last block and projection), ``projection`` or
            ``flow`` (the lattice's neuron and carrier between fixed ends).
        log_every: Updates between progress records.
        validate_every: Updates between validations; 0 = once an epoch.
        save_every: Updates between checkpoints; 0 = at every validation.
        save_minutes: Minutes between checkpoints, so that a kill loses no more; 0 =
            off. Where saving takes over 2 % of that, the wait is longer.
        keep: Newest checkpoints kept beside the best one.
        best_metric: Validation metric that chooses the best checkpoint, one that the
            objectives measure, or ``sts`` where ``sts`` is given.
        patience: Validations without improvement before stopping; 0 = never.
        min_delta: Smallest change that counts as improvement.
        sts: File of ``score<TAB>sentence<TAB>sentence`` lines; every validation gives
            Spearman x 100 on it, as ``sts``.
        ema: Decay of the moving average of the weights that is measured and kept, [0,
            1); 0 = the weights themselves.
        follow_samples: Held-out sentences written out at every validation, for
            ``samples.jsonl``; 0 = none.
        decode_samples: Held-out sentences decoded greedily at the end; 0 = none.
        on_divergence: What a run does that is not finite any more: ``stop``, or
            ``rollback`` to the newest checkpoint, with lower learning rates.
        rollback_factor: Factor of every learning rate at a rollback, below 1.
        max_rollbacks: Rollbacks of a run after which it stops all the same.
        max_skipped: With float16: updates skipped in a row, because they are not
            finite, after which the run stops.
        backend: ``auto``, ``cpu``, ``metal`` or ``cuda``.
        compile: Compile each step (off for debugging only).
        debug_timing: Compute and time the parts of every update on their own.
        memory_limit_gb: Allocator limit in GiB; 0 = MLX's own.
        cache_limit_gb: Most freed memory that the allocator keeps, in GiB; 0 = nothing,
            none = MLX's own.
        wired_limit_gb: Memory that stays resident, in GiB; Metal's alone. 0 = none.
        log_level: Least level of the messages shown: ``debug``, ``info``, ``warning``.
    """

    epochs: int = 4
    max_steps: int = 0
    micro_batch: int = 64
    accumulate: int = 1
    train: str = "all"
    log_every: int = 20
    validate_every: int = 0
    save_every: int = 0
    save_minutes: float = 10.0
    keep: int = 2
    best_metric: str = "cosine"
    patience: int = 0
    min_delta: float = 0.0
    sts: str | None = None
    ema: float = 0.0
    follow_samples: int = 8
    decode_samples: int = 200
    on_divergence: str = "stop"
    rollback_factor: float = 0.5
    max_rollbacks: int = 3
    max_skipped: int = 50
    backend: str = "auto"
    compile: bool = True
    debug_timing: bool = False
    memory_limit_gb: float = 0.0
    cache_limit_gb: float | None = None
    wired_limit_gb: float = 0.0
    log_level: str = "info"

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in (
            *("epochs", "micro_batch", "accumulate", "log_every", "keep"),
            *("max_rollbacks", "max_skipped"),
        ):
            require_range(getattr(self, name), f"trainer.{name}", 1)
        for name in (
            "max_steps",
            "validate_every",
            "save_every",
            "save_minutes",
            "patience",
            "min_delta",
            "follow_samples",
            "decode_samples",
        ):
            require_range(getattr(self, name), f"trainer.{name}", 0)
        for name in ("memory_limit_gb", "cache_limit_gb", "wired_limit_gb"):
            size = getattr(self, name)
            if size is not None:
                require_range(size, f"trainer.{name}", 0, _MOST_GB)
        require_share(self.ema, "trainer.ema")
        require_choice(self.on_divergence, "trainer.on_divergence", ON_DIVERGENCE)
        factor = self.rollback_factor
        require(0.0 < factor < 1.0, "trainer.rollback_factor", "in (0, 1)", factor)
        require_choice(self.train, "trainer.train", tuple(TRAINED))
        require_choice(self.log_level, "trainer.log_level", LOG_LEVELS)
        require_choice(
            self.backend, "trainer.backend", ("auto", "cpu", "metal", "cuda")
        )
