"""Wrong commands: one line that names the fault, status 2, and nothing left behind."""

import json
import shlex
import subprocess
import sys

import pytest

from tests.commands import CHECKOUT

# What is typed, and a word that the one line must hold.
TABLE = """
trian run.dir=new | did you mean train
sweep_report run=run | sweep-report
train experiment=ab run.dir=new | +experiment=ab
train +experiment=nonsense run.dir=new | reconstruct
train +experiment=smok run.dir=new | did you mean smoke
train trainer.epoch=3 run.dir=new | trainer.epochs
train +trainer.epochs=3 run.dir=new | trainer.epochs=3
train epochs=3 run.dir=new | trainer.epochs
train trainer.epochs=many run.dir=new | a whole number, got 'many'
train trainer.epochs=1.5 run.dir=new | a whole number
train trainer.epochs=0 run.dir=new | >= 1
train trainer.micro_batch=-4 run.dir=new | trainer.micro_batch
train optimizer.eps=-1 run.dir=new | optimizer.eps
train seed=-1 run.dir=new | seed
train trainer.compile=perhaps run.dir=new | true or false
train objectives.distillation.lr=fast run.dir=new | a number or null, got 'fast'
train objectives.distilation.lr=1 run.dir=new | objectives.distillation.lr
train encoder.dims=64 run.dir=new | encoder.dim
train encoder.heads=2 run.dir=new | another encoder
train encoder=transformr run.dir=new | transformer
train encoder=transformer run.dir=new | share
train tokenizer=bp run.dir=new | bpe
train precision=fp8 run.dir=new | fp16
train trainer.backend=metal run.dir=new | metal
train trainer.best_metric=nonsense run.dir=new | best_metric
train 'objectives.flow={share: 1}' run.dir=new | objectives={flow
train objectives.flow.share=1 run.dir=new | objectives={flow
train lattice.cube.width=8 run.dir=new | lattice=debug
train 'objectives={flw: {share: 1}}' run.dir=new | objectives.flow
train --epochs=3 run.dir=new | --epochs
train seed=1,2 -m run.dir=new | before the first
train -m --cfg job run.dir=new | exclude each other
train --cfg nothing run.dir=new | invalid choice
train --cfg | expected one argument
train my.txt run.dir=new | key=value
train 'data.train=[good.txt' run.dir=new | cannot be read
train data.trian=good.txt run.dir=new | data.train
train data.train=missing.txt run.dir=new | missing.txt
train 'data.train=[good.txt,missing.txt]' run.dir=new | missing.txt
train data.train=empty.txt run.dir=new | empty.txt
train data.train=blank.txt run.dir=new | blank.txt
train data.train=one.txt run.dir=new | 2 different
train data.train=equal.txt run.dir=new | 2 different
train data.train=binary.txt run.dir=new | UTF-8
train data.train=table.csv run.dir=new | .csv
train data.train=foreign run.dir=new | foreign
train data.train=folder.txt run.dir=new | folder.txt
train data.train=broken.jsonl run.dir=new | broken.jsonl
train data.train=no_text.jsonl run.dir=new | no_text.jsonl
train data.train=damaged.efb run.dir=new | damaged.efb
train data.train=text.npy run.dir=new | text.npy
train data.train=good.npy run.dir=new | text
train data.train=good.txt data.val=missing.txt run.dir=new | missing.txt
train data.train=good.txt data.val=empty.txt run.dir=new | empty.txt
train data.train=good.txt data.format=efb run.dir=new | .efb
train data.train=good.txt trainer.accumulate=99 run.dir=new | trainer.accumulate
train data.val_fraction=0.9 run.dir=new | data.val_fraction
train 'data.buckets=[32,16]' run.dir=new | data.buckets
train data.buckets=16 run.dir=new | a list
train data.captions=10 run.dir=new | data.captions
train teacher=nonsense run.dir=new | precomputed
train teacher.name=no/such/folder run.dir=new | no/such/folder
train teacher=precomputed run.dir=new | data.train
train data.train=good.txt run.dir=file | run.dir
train data.train=good.txt run.dir=file/below | run.dir
train data.train=good.txt run.dir=foreign | foreign
train data.train=good.txt run.dir=damaged | JSON
train +experiment=smoke data.train=good.txt run.dir=run | another run.dir
train -m seed=1,x run.dir=new | whole number
train -m +experiment=smoke,nonsense run.dir=new | nonsense
encode input=good.txt output=new.npy | missing: run
encode run=nowhere input=good.txt output=new.npy | nowhere
encode run=foreign input=good.txt output=new.npy | foreign
encode run=damaged input=good.txt output=new.npy | JSON
encode run=run input=missing.txt output=new.npy | missing.txt
encode run=run input=empty.txt output=new.npy | empty.txt
encode run=run input=binary.txt output=new.npy | UTF-8
encode run=run input=folder.txt output=new.npy | folder.txt
encode run=run input=good.txt output=new.txt | .npy
encode run=run input=good.txt output=folder.npy | folder.npy
encode run=run input=good.txt output=file/new.npy | file
encode run=run input=good.npy output=new/new.npy | good.npy
encode run=run input=good.txt output=new.npy batch_size=-1 | batch_size
encode run=run input=good.txt output=new.npy batch_size=two | a whole number
encode run=run input=good.txt output=new.npy normalise=false | did you mean normalize
encode run=run input=good.txt output=new.npy normalize=maybe | true or false
encode run=run input=good.txt output=new.npy weights=missing | unknown key weights
encode good.txt new.npy | key=value
decode run=run input=missing.npy output=new.txt | missing.npy
decode run=run input=good.txt output=new.txt | good.txt
decode run=run input=text.npy output=new.txt | text.npy
decode run=run input=narrow.npy output=new.txt | 384
decode run=run input=flat.npy output=new.txt | flat.npy
decode run=run input=nan.npy output=new.txt | nan.npy
decode run=run input=folder.npy output=new.txt | folder.npy
decode run=run input=good.npy output=folder.txt | folder.txt
decode run=run input=good.npy output=good.npy | output
decode run=run input=good.npy output=new.txt temperature=-1 | temperature
decode run=run input=good.npy output=new.txt max_length=0 | max_length
decode run=run input=good.npy output=new.txt top_p=2 | top_p
decode run=run input=good.npy output=new.txt beam=2 | beams
evaluate | run=PATH
evaluate run=nowhere | nowhere
evaluate run=run sts=missing.tsv | missing.tsv
evaluate run=run sts=bad_score.tsv | bad_score.tsv
evaluate run=run sts=two_columns.tsv | two_columns.tsv
evaluate run=run sts=3 | sts
evaluate run=run data.vall=good.txt | data.val
evaluate run=run data.val=missing.txt | missing.txt
evaluate run=run data.val=good.txt groups=3 | groups
evaluate run=run decode_samples=-1 | decode_samples
evaluate sts=good.txt | run=PATH
evaluate teacher=nonsense sts=bad_score.tsv | nonsense
export output=new.safetensors | run=PATH
export run=run output=good.txt | folder
export run=run output=new.safetensors dtype=float8 | dtype
export run=nowhere output=new.safetensors | nowhere
export run=run output=folder.safetensors | folder.safetensors
export input=text.efck1 output=new.npz | text.efck1
export input=missing.efck1 output=new.npz | missing.efck1
prepare input=missing.txt output=new.efb | missing.txt
prepare input=empty.txt output=new.efb | empty.txt
prepare input=good.txt output=new.txt | .efb
prepare input=good.txt output=folder.efb | folder.efb
prepare input=good.txt output=file/new.efb | file
prepare input=table.csv output=new.efb | text
prepare input=good.txt output=new.efb limit=-1 | limit
prepare input=good.txt output=new.efb max_length=1 | max_length
prepare input=good.txt output=new.efb teacher=nonsense | nonsense
plot run=nowhere | nowhere
plot run=run output=file | file
plot run=run 'sentences=["a dog"]' | lattice
profile run=nowhere | nowhere
profile run=run updates=1 | updates
profile run=run capture=new.gputrace | Metal
sweep-report run=nowhere | nowhere
sweep-report run=hollow | hollow
sweep-report | missing: run
doctor kernel | kernels
doctor json=maybe | true or false
"""
CASES = [tuple(map(str.strip, line.split(" | "))) for line in TABLE.split("\n") if line]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What became of every command of the table, all called in one process."""
    folder = tmp_path_factory.mktemp("wrong")
    done = subprocess.run(
        [sys.executable, "-m", "tests.wrong_commands", folder],
        cwd=CHECKOUT,
        input=json.dumps([shlex.split(typed) for typed, _ in CASES]),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return {typed: one for (typed, _), one in zip(CASES, found, strict=True)}


@pytest.mark.parametrize(("typed", "named"), CASES, ids=[c for c, _ in CASES])
def test_a_wrong_command_is_one_line_with_status_2_and_leaves_nothing(
    outcomes, typed, named
):
    outcome = outcomes[typed]
    assert outcome["status"] == 2, outcome["err"]
    (line,) = outcome["err"].splitlines()
    assert line.startswith("error: ["), line
    assert named in line
    assert len(line) < 500, line
    assert not outcome["changed"]
