"""Equal items get one number; of equal texts the first stays."""

import numpy as np
import pytest

from energyflow_mlx.data.distinct import deduplicate, number_distinct


def test_equal_items_share_a_number_in_order_of_first_use():
    assert number_distinct(["b", "a", "b", "c", "a"]).tolist() == [0, 1, 0, 2, 1]
    assert number_distinct(iter([])).shape == (0,)
    assert number_distinct([]).dtype == np.int64


@pytest.mark.parametrize(
    ("ignore_case", "distinct", "places"),
    [
        (False, ["b", "A", "a", " b"], [0, 1, 2, 0, 3]),
        (True, ["b", "A"], [0, 1, 1, 0, 0]),
    ],
)
def test_of_equal_texts_the_first_stays(ignore_case, distinct, places):
    texts = ["b", "A", "a", "b", " b"]
    kept, found = deduplicate(texts, ignore_case=ignore_case)
    assert (kept, found.tolist()) == (distinct, places)


def test_distinct_texts_at_their_places_are_the_texts():
    texts = ["c", "a", "c", "b", "a"]
    kept, places = deduplicate(texts)
    assert [kept[i] for i in places] == texts
    assert deduplicate([])[0] == []
