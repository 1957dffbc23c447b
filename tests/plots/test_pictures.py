"""Pictures of the flows are real PNG files that show what is in the records."""

import dataclasses

import numpy as np
import pytest
from matplotlib.image import imread

from energyflow_mlx.plots import write_pictures
from energyflow_mlx.plots.pictures import draw_pictures
from tests.plots.records import make_cube, make_record


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    cube = make_cube(6, 6)  # square, as the presets, which fills the panels most
    records = [make_record(cube, seed=seed) for seed in (0, 1)]
    files = write_pictures(cube, records, tmp_path_factory.mktemp("pictures"))
    return {file.stem: file for file in files}


def pixels(path):
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    return imread(path)[..., :3]


def colored(image):
    """Share of the pixels that are not a shade of grey."""
    return float(np.mean(np.ptp(image, axis=-1) > 0.1))


@pytest.mark.parametrize("name", ["surfaces", "arrivals", "histograms"])
def test_pictures_have_their_size_and_are_not_blank(drawn, name):
    image = pixels(drawn[name])
    height, width, _ = image.shape
    assert 800 <= width <= 1400 and 500 <= height <= 1000
    assert 0.05 < np.mean(image < 0.98) < 0.9
    assert colored(image) > 0.1


@pytest.mark.parametrize("name", ["surfaces", "arrivals", "histograms"])
def test_nothing_touches_the_border_of_a_picture(drawn, name):
    """Else a title or a label would be cut."""
    image = pixels(drawn[name])
    for edge in (image[:2], image[-2:], image[:, :2], image[:, -2:]):
        assert np.all(edge > 0.98)


def test_energies_are_blue_below_zero_and_red_above(tmp_path):
    cube = make_cube()
    record = make_record(cube)
    colors = {}
    for name, value in (("low", -1.0), ("high", 1.0)):
        surface = np.full((cube.height, cube.width), value)
        same = dataclasses.replace(record, surface_in=surface, surface_out=surface)
        write_pictures(cube, [same], tmp_path / name)
        image = pixels(tmp_path / name / "surfaces.png")
        height, width, _ = image.shape
        colors[name] = image[height // 2, width // 5]
    assert colors["low"][2] > colors["low"][0] + 0.2
    assert colors["high"][0] > colors["high"][2] + 0.2


def test_long_lists_of_sentences_fill_eight_rows(tmp_path):
    cube = make_cube()
    heights = []
    for count in (8, 9):
        records = [make_record(cube, seed=seed) for seed in range(count)]
        write_pictures(cube, records, tmp_path)
        heights.append(pixels(tmp_path / "surfaces.png").shape[0])
    assert heights[0] == heights[1] > 2000


def test_a_closed_face_has_no_picture(tmp_path, drawn):
    cube = make_cube(is_dual=False)
    write_pictures(cube, [make_record(cube)], tmp_path)
    one, two = (pixels(f) for f in (tmp_path / "arrivals.png", drawn["arrivals"]))
    assert one.shape[1] < 0.7 * two.shape[1]


def test_a_single_sentence_without_arrivals_can_be_drawn(tmp_path):
    cube = make_cube()
    record = make_record(cube)
    still = np.zeros_like(record.position)
    stuck = dataclasses.replace(
        record,
        position=still,
        alive=np.ones_like(record.alive),
        reached=np.zeros_like(record.reached),
    )
    files = write_pictures(cube, [stuck], tmp_path)
    assert all(colored(pixels(file)) > 0.02 for file in files)


def test_a_second_drawing_replaces_the_first_and_leaves_no_scraps(tmp_path):
    cube = make_cube()
    for seed in (0, 1):
        write_pictures(cube, [make_record(cube, seed=seed)], tmp_path)
    names = {path.stem for path in tmp_path.iterdir()}
    assert names == {"surfaces", "arrivals", "regions", "histograms"}


def test_a_second_sentence_adds_what_it_changes():
    first, second = (make_record(cube := make_cube(), seed=seed) for seed in (0, 1))
    assert "changes" not in draw_pictures(cube, [first])
    figure = draw_pictures(cube, [first, second])["changes"]
    started, arrived, landed = (
        axes.images[0].get_array()
        for row in figure.subfigs
        for axes in row.axes
        if axes.get_title()
    )
    np.testing.assert_allclose(started, second.surface_in - first.surface_in)
    np.testing.assert_allclose(arrived, second.surface_out - first.surface_out)
    np.testing.assert_allclose(landed, second.arrivals - first.arrivals)


def test_all_surfaces_have_one_color_scale():
    record = make_record(cube := make_cube())
    strong = dataclasses.replace(record, surface_out=3 * record.surface_out)
    figure = draw_pictures(cube, [record, strong])["surfaces"]
    rows = figure.subfigs
    limits = {image.get_clim() for row in rows for a in row.axes for image in a.images}
    top = float(np.abs([strong.surface_in, strong.surface_out]).max())
    assert limits == {(-top, top)}
