import dataclasses

import pytest

from energyflow_mlx.errors import InputError
from energyflow_mlx.text.generation import Decoding


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_length": 0}, "max_length must be >= 1, got 0"),
        ({"temperature": -1.0}, "temperature must be >= 0, got -1.0"),
        ({"temperature": float("nan")}, "temperature must be a finite number, got nan"),
        ({"temperature": 1e-9}, "temperature must be 0 or >= 0.001, got 1e-09"),
        ({"temperature": float("inf")}, "temperature must be a finite number, got inf"),
        ({"top_k": -1}, "top_k must be >= 0, got -1"),
        ({"max_length": 2**31}, "max_length must be <= 4096, got 2147483648"),
        ({"beams": 10**6}, "beams must be <= 1024, got 1000000"),
        ({"corrections": 2**63}, "corrections must be <= 1000, got"),
        ({"top_p": 0.0}, "top_p must be above 0, got 0.0"),
        ({"top_p": 1.1}, "top_p must be <= 1, got 1.1"),
        ({"beams": 0}, "beams must be >= 1, got 0"),
        ({"length_penalty": -0.5}, "length_penalty must be >= 0, got -0.5"),
        ({"corrections": -1}, "corrections must be >= 0, got -1"),
        ({"samples": 0}, "samples must be >= 1, got 0"),
        ({"samples": 1025}, "samples must be <= 1024, got 1025"),
        ({"embedder": "me"}, "embedder must be teacher or student, got me"),
        ({"beams": 2, "samples": 2}, "beams must be 1 when samples is above 1"),
        ({"seed": -1}, "seed must be >= 0, got -1"),
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
