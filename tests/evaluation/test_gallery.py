import numpy as np
import pytest

from maftp.errors import DataError
from maftp.evaluation.gallery import choose, difference, image_scores
from maftp.report.figures import NOTHING


def test_mean_iou_of_single_images(tmp_path):
    (tmp_path / "images.csv").write_text(
        "image,class,correct,truth,predicted\na,0,5,10,5\na,1,0,2,0\na,2,0,0,9\nb,0,1,1,1\n"
    )
    # a: 5 / (10 + 5 - 5) = 1/2 and 0; class 2 is not in its truth
    assert image_scores(tmp_path) == pytest.approx({"a": 0.25, "b": 1.0})


def test_statistics_of_another_kind(tmp_path):
    with pytest.raises(DataError, match="no such statistics"):
        image_scores(tmp_path)
    (tmp_path / "images.csv").write_text("image,class,iou\na,0,1\n")
    with pytest.raises(DataError, match="of a semantic benchmark"):
        image_scores(tmp_path)


def test_best_median_and_worst():
    scores = {name: place / 10 for place, name in enumerate("abcdefg")}
    chosen = choose(scores, each=2)
    # g f | e d c | b a: the middle two of seven begin at the third
    assert chosen == {
        "g": "best", "f": "best", "b": "worst", "a": "worst", "e": "median", "d": "median",
    }  # fmt: skip
    assert choose({"a": 0.1, "b": 0.2}, each=2) == {"b": "best", "a": "best"}


def test_difference_says_who_is_right():
    truth = np.array([[0, 1, 2, 3, NOTHING]])
    method = np.array([[0, 1, 0, 0, 1]])
    baseline = np.array([[0, 2, 2, 1, 1]])
    assert difference(truth, method, baseline).tolist() == [[NOTHING, 0, 1, 2, NOTHING]]
