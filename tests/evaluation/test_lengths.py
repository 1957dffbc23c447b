"""Groups of sentences: every one in its own."""

from energyflow_mlx.evaluation.lengths import by_label, by_length


def test_every_sentence_is_in_the_bucket_of_its_words():
    texts = ["w " * count for count in (1, 5, 6, 10, 20, 21, 90)]
    found = {name: rows.tolist() for name, rows in by_length(texts).items()}
    assert found == {
        "1 to 5 words": [0, 1],
        "6 to 10 words": [2, 3],
        "16 to 20 words": [4],
        "from 21 words": [5, 6],
    }


def test_every_sentence_is_in_the_group_of_its_label():
    found = {name: rows.tolist() for name, rows in by_label("bcab").items()}
    assert list(found.items()) == [("a", [2]), ("b", [0, 3]), ("c", [1])]
