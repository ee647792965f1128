import numpy as np
import pytest

from maftp.errors import MaftpError
from maftp.report.bootstrap import (
    Counts,
    align,
    counts_of,
    difference,
    score,
    score_interval,
    seed_interval,
)


def semantic(correct, truth, predicted, images=None, classes=None) -> Counts:
    values = [np.array(v, float) for v in (correct, truth, predicted)]
    count, width = values[0].shape
    return Counts(
        tuple(images or [f"i{n}" for n in range(count)]),
        tuple(classes or range(width)),
        dict(zip(("correct", "truth", "predicted"), values, strict=True)),
    )


def test_miou_of_sums_over_the_drawn_images():
    counts = semantic([[2, 0], [1, 1]], [[4, 0], [1, 3]], [[2, 2], [2, 2]])
    # both images: IoU 3 / (5 + 4 - 3) = 1/2 and 1 / (3 + 4 - 1) = 1/6, mean 1/3
    # the first alone: class 0: 2 / (4 + 2 - 2) = 1/2; class 1 is not in the truth
    # the first twice gives the same as once
    scores = score(counts, np.array([[1, 1], [1, 0], [2, 0]]))
    assert scores == pytest.approx([100 / 3, 50, 50])


def test_panoptic_quality_of_sums():
    columns = {
        "iou": [[0.8, 0.0], [0.6, 0.0]],
        "true_positives": [[1, 0], [1, 0]],
        "false_positives": [[0, 1], [1, 0]],
        "false_negatives": [[0, 0], [0, 1]],
    }
    counts = Counts(("a", "b"), (0, 1), {k: np.array(v, float) for k, v in columns.items()})
    # class 0: 1.4 / (2 + 1/2) = 0.56; class 1: 0 / (1/2 + 1/2) = 0
    assert score(counts, np.ones((1, 2))) == pytest.approx([28])


def test_a_score_s_interval_is_about_the_images():
    same = semantic([[3]] * 20, [[4]] * 20, [[4]] * 20)  # IoU 3 / 5 whatever is drawn
    assert score_interval(same) == pytest.approx((60, 60))
    # half of 20 images right: the share drawn has a standard deviation of 11 points
    half = semantic([[0]] * 10 + [[1]] * 10, [[1]] * 20, [[0]] * 10 + [[1]] * 10)
    low, high = score_interval(half)
    assert low == pytest.approx(50 - 1.96 * 11.2, abs=6)
    assert high == pytest.approx(50 + 1.96 * 11.2, abs=6)


def test_alignment_gives_equal_classes_and_images():
    one = semantic([[1]], [[1]], [[1]], images=["a"], classes=[3])
    two = semantic([[5]], [[5]], [[5]], images=["a"], classes=[1])
    first, second = align([one, two])
    assert first.classes == second.classes == (1, 3)
    assert first.columns["correct"].tolist() == [[0, 1]]
    assert second.columns["correct"].tolist() == [[5, 0]]
    other = semantic([[1]], [[1]], [[1]], images=["b"], classes=[3])
    with pytest.raises(MaftpError, match="different images"):
        align([one, other])


def random_counts(rng, images: int, shift: float) -> Counts:
    truth = rng.integers(50, 100, (images, 3))
    correct = np.minimum(
        truth, (truth * (0.5 + shift)).astype(int) + rng.integers(0, 9, (images, 3))
    )
    return semantic(correct, truth, truth)


def test_equal_runs_differ_by_nothing_and_a_better_one_is_seen():
    rng = np.random.default_rng(0)
    worse, better = random_counts(rng, 40, 0.0), random_counts(rng, 40, 0.2)
    same = difference([([worse], [worse])], draws=200)
    assert (same.mean, same.low, same.high) == (0, 0, 0)
    found = difference([([better], [worse])], draws=200)
    assert 0 < found.low < found.mean < found.high
    assert found.mean == pytest.approx(
        float((score(better, np.ones((1, 40))) - score(worse, np.ones((1, 40))))[0])
    )


def test_pairing_narrows_the_interval():
    """Two runs with the same error on each image: the difference is exact, the scores are not."""
    rng = np.random.default_rng(1)
    truth = np.full((30, 1), 100)
    base = rng.integers(20, 60, (30, 1))
    low, high = (semantic(base + extra, truth, base + extra) for extra in (0, 10))
    found = difference([([high], [low])], draws=300)
    # correct / truth: exactly ten points more, whichever images are drawn
    assert (found.low, found.high) == pytest.approx((10, 10))


def test_benchmarks_and_seeds_are_averaged():
    truth = [[100]]
    zero, ten, thirty = (semantic([[c]], truth, [[c]]) for c in (0, 10, 30))
    found = difference([([ten, thirty], [zero, zero]), ([zero, zero], [zero, zero])], draws=10)
    assert found.mean == pytest.approx((20 + 0) / 2)


def test_the_interval_over_seeds_is_welchs():
    # spreads 2 and 2: s^2 / n = 4 / 3 each; 8 / 3 in all, 4 degrees of freedom, t = 2.776
    found = seed_interval(np.array([8.0, 10, 12]), np.array([2.0, 4, 6]), 0.0, images=40)
    reach = 2.776445 * (8 / 3) ** 0.5
    assert (found.mean, found.low, found.high) == pytest.approx((6, 6 - reach, 6 + reach))
    assert found.low > 0 and found.covers == "seeds and images"
    wider = seed_interval(np.array([8.0, 10, 12]), np.array([2.0, 4, 6]), 3.0, images=40)
    assert wider.low < 0 < wider.high


@pytest.mark.parametrize("image_error", [0.0, 1.0])
def test_three_seeds_cover_the_truth_as_often_as_they_say(image_error):
    rng = np.random.default_rng(0)
    hits = []
    for _ in range(4000):
        shift = image_error * rng.standard_normal()  # all seeds are scored on the same images
        first, second = 1.4 * rng.standard_normal((2, 3))
        found = seed_interval(first + shift, second, image_error, images=40)
        hits.append(found.low <= 0 <= found.high)
    assert 0.94 < np.mean(hits) < 0.99


def test_statistics_are_read_and_mistakes_named(tmp_path):
    (tmp_path / "images.csv").write_text(
        "image,class,correct,truth,predicted\n01,2,3,4,5\n02,0,1,1,1\n"
    )
    counts = counts_of(tmp_path, "semantic")
    assert counts.images == ("01", "02") and counts.classes == (0, 2)
    assert counts.columns["truth"].tolist() == [[0, 4], [1, 0]]
    with pytest.raises(MaftpError, match="no such statistics"):
        counts_of(tmp_path / "none", "semantic")
    (tmp_path / "images.csv").write_text("image,class,correct\n")
    with pytest.raises(MaftpError, match="column truth is missing"):
        counts_of(tmp_path, "semantic")
