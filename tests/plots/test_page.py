"""What the page holds is what the flows did, to half a step of its grid."""

import base64
import json
import re

import numpy as np
import pytest

from energyflow_mlx.plots import write_page
from energyflow_mlx.plots.page import pack, quantize
from tests.plots.records import make_cube, make_record


def integers(text):
    return np.frombuffer(base64.b64decode(text), "<u2")


def numbers(stored):
    return stored["low"] + stored["step"] * integers(stored["codes"]).astype(float)


def data_of(path):
    text = path.read_text(encoding="utf-8")
    (found,) = re.findall(r'id="flows">(.*?)</script>', text)
    return json.loads(found)


@pytest.mark.parametrize("shape", [(1,), (7, 3), (4, 31, 3)])
def test_decoded_numbers_are_off_by_half_a_step_at_most(shape):
    values = np.random.default_rng(0).normal(3.0, 2.0, shape)
    stored = quantize(values)
    error = np.abs(numbers(stored) - values.ravel()).max()
    assert error <= 0.5000001 * stored["step"]
    assert stored["step"] <= np.ptp(values) / 65535 + 1e-15


def test_ends_of_the_range_are_exact():
    stored = quantize(np.array([-1.0, 0.3, 1.0]))
    assert numbers(stored)[0] == -1.0 and numbers(stored)[-1] == 1.0


@pytest.mark.parametrize("values", [[2.5, 2.5, 2.5], [0.0], []])
def test_equal_numbers_and_none_at_all_survive(values):
    assert numbers(quantize(np.array(values))).tolist() == values


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_number_that_is_not_finite_is_refused(bad):
    with pytest.raises(ValueError, match="must be finite"):
        quantize(np.array([0.0, bad]))


def test_positions_in_the_page_are_the_positions_of_the_flows(tmp_path):
    cube = make_cube()
    records = [make_record(cube, seed=seed) for seed in (0, 1)]
    page = data_of(write_page(tmp_path / "flows.html", cube, records, "run"))
    assert (page["width"], page["height"], page["steps"]) == (6, 5, 4)
    for stored, record in zip(page["sentences"], records, strict=True):
        assert stored["flows"] == len(record.age)
        for name in ("position", "energy"):
            given = getattr(record, name)
            found = numbers(stored[name]).reshape(given.shape)
            np.testing.assert_allclose(found, given, atol=0.51 * stored[name]["step"])
        assert stored["position"]["step"] < 3.1e-5
        assert integers(stored["born"]).tolist() == record.born.tolist()
        assert integers(stored["arrived"]).tolist() == record.arrived.tolist()
        assert integers(stored["far"]).tolist() == (record.landed[:, 2] > 0).tolist()
        output = numbers(stored["output"]).reshape(5, 6)
        np.testing.assert_allclose(output, record.surface_out, atol=1e-4)


def test_colors_end_near_the_largest_energy_of_all_sentences():
    cube = make_cube()
    records = [make_record(cube, seed=seed) for seed in (0, 1)]
    limit = pack(cube, records, "run")["limit"]
    top = max(np.abs(r.energy[r.alive]).max() for r in records)
    assert 0.7 * top < limit <= top


def test_a_sentence_cannot_break_out_of_the_page(tmp_path):
    evil = 'a </script><script>alert("x")</script> <!-- \u2028 & "b"'
    cube = make_cube()
    path = write_page(tmp_path / "f.html", cube, [make_record(cube, evil)], evil)
    text = path.read_text(encoding="utf-8")
    assert text.count("</script>") == 2 and "<!--" not in text
    assert data_of(path)["sentences"][0]["text"] == evil


def test_a_page_loads_nothing_from_outside(tmp_path):
    cube = make_cube()
    path = write_page(tmp_path / "f.html", cube, [make_record(cube)], "run")
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"""https?:|\b(src|href)=|@import|url\(|import\(""", text)
    assert "default-src 'none'" in text
    assert "/* page." not in text and "/* cube." not in text, "a part is missing"


@pytest.mark.parametrize(
    ("shape", "flows", "most"),
    [((20, 20, 5), 8, 3_000_000), ((28, 28, 20), 16, 15_000_000)],
    ids=["debug", "experiment"],
)
def test_four_sentences_of_a_preset_stay_small(shape, flows, most, tmp_path):
    cube = make_cube(*shape)
    records = [make_record(cube, seed=seed, spawned=flows) for seed in range(4)]
    path = write_page(tmp_path / "f.html", cube, records, "run")
    assert path.stat().st_size < most


def test_a_failed_page_leaves_nothing(tmp_path):
    cube = make_cube()
    record = make_record(cube)
    record.position[2, 3, 1] = np.nan
    with pytest.raises(ValueError, match="finite"):
        write_page(tmp_path / "new" / "f.html", cube, [record], "run")
    assert not (tmp_path / "new").exists()
