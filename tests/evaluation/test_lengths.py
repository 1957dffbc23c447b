import numpy as np

from energyflow_mlx.evaluation.lengths import bucket_names, share_by_length


def test_every_sentence_is_in_the_bucket_of_its_words():
    truth = ["w " * count for count in (1, 5, 6, 10, 20, 21, 90)]
    holds = np.array([True, False, True, True, False, True, False])
    assert share_by_length(holds, truth) == {
        "1_to_5_words": 0.5,
        "6_to_10_words": 1.0,
        "16_to_20_words": 0.0,
        "from_21_words": 0.5,
    }
    assert len(bucket_names()) == 5
