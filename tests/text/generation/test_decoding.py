import dataclasses

import pytest

from energyflow_mlx.errors import InputError
from energyflow_mlx.text.generation import Decoding


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_length": 0}, "max_length must be at least 1, got 0"),
        ({"temperature": -1.0}, "temperature must be at least 0, got -1.0"),
        ({"temperature": float("nan")}, "temperature must be at least 0, got nan"),
        ({"top_k": -1}, "top_k must be at least 0, got -1"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\], got 0.0"),
        ({"top_p": 1.1}, r"top_p must be in \(0, 1\], got 1.1"),
        ({"beams": 0}, "beams must be at least 1, got 0"),
        ({"length_penalty": -0.5}, "length_penalty must be at least 0, got -0.5"),
        ({"corrections": -1}, "corrections must be at least 0, got -1"),
        ({"samples": 0}, r"samples must be in \[1, 1024\], got 0"),
        ({"embedder": "me"}, "embedder must be student or teacher, got me"),
        ({"beams": 2, "samples": 2}, "beams must be 1 when samples is above 1"),
        ({"seed": -1}, r"seed must be in \[0, 2\^64\), got -1"),
        ({"beams": 2, "temperature": 0.5}, "beams must be 1 when temperature"),
    ],
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(InputError, match=r"\[decode\] " + message):
        Decoding(**settings)


def test_tries_after_the_first_are_drawn_whatever_the_first_is():
    assert Decoding().drawn.temperature == 0.7
    assert Decoding(temperature=1.5, seed=4).drawn == Decoding(temperature=1.5, seed=4)


def test_settings_cannot_change_after_they_were_checked():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Decoding().beams = 0


def test_every_setting_says_what_it_means():
    assert all(f.metadata["help"] for f in dataclasses.fields(Decoding))
