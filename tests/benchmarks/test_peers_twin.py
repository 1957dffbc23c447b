"""The PyTorch twin computes what our model computes; runs where PyTorch is."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers.agreement import Disagreement, require_same
from benchmarks.peers.captions import encode_texts, load
from benchmarks.peers.mlx_encode import EncodeCase
from benchmarks.peers.mlx_lattice import LatticeCase
from benchmarks.peers.mlx_loop import LoopCase
from benchmarks.peers.mlx_updates import UpdateCase
from benchmarks.peers.settings import Settings
from energyflow_mlx.data.captions.generate import generate_captions

SMALL_LATTICE = "debug,cube.width=6,cube.height=6,carrier.hidden=16"


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("peers")
    (folder / "small.txt").write_text("\n".join(generate_captions(120, seed=5)))
    return Settings(
        data=str(folder / "small.txt"),
        folder=str(folder / "data"),
        batch=6,
        candidates=300,
        slice=2,
        lattice=SMALL_LATTICE,
        lattice_batch=2,
    )


@pytest.fixture
def torch():
    reason = "needs PyTorch, which only the environment of make bench-peers has"
    return pytest.importorskip("torch", reason=reason)


def agreed(case, ours, twin, folder):
    found = []
    for name, side in (("ours.npz", ours), ("twin.npz", twin)):
        loss, arrays = side.agree()
        np.savez(folder / name, **arrays)
        found.append(loss)
    files = folder / "ours.npz", folder / "twin.npz"
    return require_same(case, found, files, "float32")


@pytest.mark.parametrize("convolution", ["unfold", "conv1d", "taps"])
@pytest.mark.parametrize("case", ["a", "b", "candidates"])
def test_updates_agree(torch, settings, tmp_path, case, convolution):
    from benchmarks.peers.torch_training import Variant
    from benchmarks.peers.torch_updates import UpdateCase as TwinCase

    ours = UpdateCase(settings, case, load(settings), tmp_path)
    twin = TwinCase(tmp_path, ours.objective, Variant(convolution), "cpu")
    agreed(case, ours, twin, tmp_path)


def test_another_weight_is_noticed(torch, settings, tmp_path):
    from benchmarks.peers.torch_training import Variant
    from benchmarks.peers.torch_updates import UpdateCase as TwinCase

    ours = UpdateCase(settings, "a", load(settings), tmp_path)
    twin = TwinCase(tmp_path, ours.objective, Variant(), "cpu")
    with torch.no_grad():
        twin.stepper.model.shared[0].conv2.weight[0, 0] += 1.0
    with pytest.raises(Disagreement, match="nothing was timed"):
        agreed("a", ours, twin, tmp_path)


def test_the_same_parameters_decay(torch, settings, tmp_path):
    from benchmarks.peers.torch_training import TwinStepper, Variant
    from energyflow_mlx.model import flat_parameters
    from energyflow_mlx.training.optimizer import decays

    ours = UpdateCase(settings, "b", load(settings), tmp_path)
    weights = dict(np.load(tmp_path / "weights.npz"))
    twin = TwinStepper(weights, Variant(), "cpu", dynamic=False)
    group = next(g for g in twin.optimizer.param_groups if g["weight_decay"] > 0)
    chosen = {id(p) for p in group["params"]}
    names = {k for k, p in twin.model.named_parameters() if id(p) in chosen}
    parameters = flat_parameters(ours.model)
    assert names == {k for k, p in parameters.items() if decays(k, p.shape)}
    config = ours.config.optimizer
    for group in twin.optimizer.param_groups:
        assert (group["betas"], group["eps"]) == (tuple(config.betas), config.eps)
        assert group["weight_decay"] in (0.0, config.weight_decay)


@pytest.mark.parametrize("name", ["conv2d", "taps+fast", "taps+eager+half"])
def test_an_unknown_form_is_refused(torch, name):
    from benchmarks.peers.torch_training import Variant

    with pytest.raises(ValueError, match="variants must be of"):
        Variant.parse(name)
    assert Variant.parse("taps+default+copies").name == "taps+default+copies"


@pytest.mark.parametrize("variant", ["eager", "cell"])
def test_the_lattice_agrees(torch, settings, tmp_path, variant):
    from benchmarks.peers.torch_lattice import LatticeCase as TwinCase

    ours = LatticeCase(settings, tmp_path, trains=True)
    twin = TwinCase(tmp_path, ours.facts, variant, "cpu", trains=True)
    agreed("lattice", ours, twin, tmp_path)


def test_encoding_agrees(torch, settings, tmp_path):
    from benchmarks.peers.torch_encode import EncodeCase as TwinCase

    data = load(settings)
    ours = EncodeCase(settings, data, encode_texts(settings), tmp_path)
    agreed("encode", ours, TwinCase(tmp_path, "64", "cpu"), tmp_path)


def test_a_whole_run_of_the_twin_learns_as_ours(torch, settings, tmp_path):
    """Same batches, rates and start: the cosines stay together, the noise apart."""
    from benchmarks.peers.torch_loop import LoopCase as TwinCase
    from benchmarks.peers.torch_training import Variant

    ours, told = LoopCase(settings, load(settings), tmp_path, measures=True), []
    ours.run(lambda found: told.append(found) or len(told) < 6)
    twin = TwinCase(tmp_path, ours.facts, settings, Variant(), "cpu", measures=True)
    theirs = []
    twin.run(lambda found: theirs.append(found) or len(theirs) < 6)
    assert [t["step"] for t in theirs] == [t["step"] for t in told]
    cosines = [[t["cosine"] for t in side] for side in (told, theirs)]
    np.testing.assert_allclose(*cosines, atol=5e-3)


# -- our side alone -------------------------------------------------------------------


def test_our_run_hands_over_every_slice_and_stops_when_told(settings, tmp_path):
    case, told = LoopCase(settings, load(settings), tmp_path, measures=True), []
    case.run(lambda found: told.append(found) or len(told) < 3)
    assert [found["step"] for found in told] == [2, 4, 6]
    assert np.all(np.diff([found["seconds"] for found in told]) > 0)
    assert told[0]["cosine"] != told[2]["cosine"]


def test_a_larger_vocabulary_holds_the_same_sentences(settings):
    from dataclasses import replace

    own = load(settings)
    size = 2 * own.tokenizer.vocab_size + 1
    wide = load(replace(settings, vocabulary=size))
    assert wide.tokenizer.vocab_size == size == len(wide.word_embeddings)
    for ours, theirs in zip(own.train_ids, wide.train_ids, strict=True):
        np.testing.assert_array_equal(
            own.word_embeddings[ours], wide.word_embeddings[theirs]
        )
    with pytest.raises(ValueError, match="vocabulary must be >="):
        load(replace(settings, vocabulary=5))


def test_the_folder_of_data_is_made_once(settings):
    load(settings)
    (path,) = Path(settings.folder).glob("*/captions.npz")
    before = path.stat().st_mtime_ns
    load(settings)
    assert path.stat().st_mtime_ns == before
