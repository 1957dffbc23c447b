"""Commands to strike, each over in a second: eight kinds of run, and what uses one."""

from dataclasses import dataclass

RUN = "run"  # the run's folder, in the folder of a case
TEXTS = [f"{a} {b}." for a in ("A dog", "Two cats") for b in ("runs", "sleep", "eat")]
SAVE_EVERY = 2

_SMALL = (
    *("encoder.dim=16", "encoder.hidden=24", "data.captions=100", "data.buckets=[16]"),
    *("data.max_length=16", "trainer.micro_batch=8", "trainer.max_steps=5"),
    *(f"trainer.save_every={SAVE_EVERY}", "trainer.validate_every=4"),
    *("trainer.log_every=2", "trainer.keep=1", "trainer.decode_samples=0"),
    *("trainer.follow_samples=1", f"run.dir={RUN}"),
)
_DECODER = ("decoder.dim=16", "decoder.hidden=24")
_LATTICE = (
    *("lattice.cube.width=8", "lattice.cube.height=8", "lattice.cube.depth=4"),
    *("lattice.spawn.per_cell=0.04", "lattice.carrier.hidden=8"),
    *("lattice.carrier.neuron_hidden=6", "lattice.carrier.neuron_features=7"),
)
# Only `ab` has the teacher's own words, thirty thousand: the others start faster.
_WORDS = ("tokenizer=bpe", "tokenizer.bpe_size=300")
_AB = ("+experiment=ab", *_SMALL, *_DECODER)


@dataclass(frozen=True)
class Kind:
    """A command and what it starts from.

    Attributes:
        words: Of the command; ``{cache}`` is the folder of the teacher's vectors, which
            all share.
        needs_run: Whether the folder holds a finished run, sentences and vectors.
    """

    words: tuple[str, ...]
    needs_run: bool = False

    def command(self, cache):
        """The words to type."""
        return [word.format(cache=cache) for word in self.words]


def _training(*words):
    return Kind(("train", "teacher.cache_dir={cache}", *words))


RUNS = {
    "ab": _training(*_AB),
    "accumulate": _training(*_AB, *_WORDS, "trainer.accumulate=4"),
    "correct": _training(
        *("+experiment=correct", *_SMALL, *_DECODER, *_WORDS),
        *("objectives.correction.share=1", "objectives.correction.every=2"),
        *("objectives.correction.count=8", "objectives.correction.kept=16"),
    ),
    "distill": _training("+experiment=distill", *_SMALL, *_WORDS),
    "flow": _training("+experiment=flow", *_SMALL, *_LATTICE, *_WORDS),
    "flow_text": _training(
        *("+experiment=flow_text", *_SMALL, *_DECODER, *_LATTICE, *_WORDS)
    ),
    "own_pairs": _training(
        *(*_AB, *_WORDS, "data.own_pairs.share=0.5", "data.own_pairs.every=2"),
        *("data.own_pairs.count=16", "data.own_pairs.temperature=0.3"),
    ),
    "transformer": _training(
        *(*_AB, *_WORDS, "encoder=transformer", "encoder.heads=2", "share=none")
    ),
}
_ON = f"run={RUN}"
OTHERS = {
    "cold cache": Kind(("train", "teacher.cache_dir=cache", *_AB)),
    "encode": Kind(("encode", _ON, "input=texts.txt", "output=new.npy"), True),
    "decode": Kind(("decode", _ON, "input=vectors.npy", "output=new.txt"), True),
    "evaluate": Kind(("evaluate", _ON, "decode_samples=2"), True),
    "export": Kind(("export", _ON, "output=model"), True),
    "prepare": Kind(("prepare", "input=texts.txt", "output=new.efb"), True),
}
KINDS = RUNS | OTHERS
