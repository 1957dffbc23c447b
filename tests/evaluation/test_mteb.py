"""MTEB measures a codec and gives the figure that ``evaluate`` gives."""

import subprocess
import sys

import pytest

from energyflow_mlx.data.captions import generate_captions
from tests.build.tiny import make_codec

CODE = """
import sys
import warnings
warnings.filterwarnings("ignore")
import mteb
import energyflow_mlx
from energyflow_mlx.display import RunDisplay
from energyflow_mlx.evaluate import similarity_of
from energyflow_mlx.evaluation.mteb import MtebEncoder, sts_task
from mteb.models import EncoderProtocol

folder, path = sys.argv[1:]
codec = energyflow_mlx.load(folder)
encoder = MtebEncoder(codec)
assert isinstance(encoder, EncoderProtocol)
result = mteb.evaluate(encoder, sts_task(path), cache=None, show_progress_bar=False)
(scores,) = result.task_results[0].scores["test"]
own = similarity_of([path], codec.encode, RunDisplay())[0]["pairs"]
print("FIGURES", own, 100 * scores["cosine_spearman"], 100 * scores["spearman"])
"""


@pytest.mark.slow  # MTEB takes half a minute to import
def test_an_sts_file_gives_the_spearman_of_evaluate(tmp_path):
    pytest.importorskip("mteb", reason="needs the extra mteb")
    texts = generate_captions(80, seed=9)
    lines = [
        f"{(7 * n) % 11 / 2}\t{a}\t{b}\n"
        for n, (a, b) in enumerate(zip(texts[::2], texts[1::2], strict=True))
    ]
    (tmp_path / "pairs.tsv").write_text("".join(lines), encoding="utf-8")
    make_codec().save_pretrained(tmp_path / "model")
    done = subprocess.run(
        [sys.executable, "-c", CODE, tmp_path / "model", tmp_path / "pairs.tsv"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (line,) = (x for x in done.stdout.splitlines() if x.startswith("FIGURES"))
    own, cosine, by_model = map(float, line.split()[1:])
    assert abs(own) > 0.1
    assert abs(own - cosine) < 0.01 and abs(own - by_model) < 0.01
