import torch

from maftp.losses.iou_matching import iou_pairs, pairwise_iou


def mask(*rows: int, size: int = 8) -> torch.Tensor:
    """Whole rows of a square."""
    found = torch.zeros(size, size, dtype=torch.bool)
    found[list(rows)] = True
    return found


def logits(*masks: torch.Tensor) -> torch.Tensor:
    return torch.stack([torch.where(m, 4.0, -4.0) for m in masks])


def pairs(predicted, truth, *, count=4, cut=0.4, seed=0):
    return iou_pairs(
        predicted,
        torch.stack(truth),
        torch.arange(len(truth)) + 5,
        cut=cut,
        count=count,
        generator=torch.Generator().manual_seed(seed),
    )


def test_iou_of_rows():
    found = pairwise_iou(torch.stack([mask(0, 1)]), torch.stack([mask(1, 2, 3), mask(0, 1)]))
    assert torch.allclose(found, torch.tensor([[1 / 4, 1.0]]))


def test_good_overlaps_are_paired_and_the_rest_is_filled_up():
    # 4 of 5 rows are an IoU of 0.8; 2 of 3 are 0.67, too little
    predicted = logits(mask(0, 1, 2, 3), mask(6, 7))
    found = pairs(predicted, [mask(0, 1, 2, 3, 4), mask(5, 6, 7)])
    assert found.labels.tolist() == [5, -1, -1, -1]
    assert torch.equal(found.predicted[0], predicted[0])
    assert torch.equal(found.truth[0], mask(0, 1, 2, 3, 4).float())
    assert not found.predicted[1:].any() and not found.truth[1:].any()


def test_one_prediction_serves_several_masks_and_one_of_several_is_drawn():
    same = mask(0, 1, 2, 3)
    assert pairs(logits(same), [same, same]).labels.tolist() == [5, 6, -1, -1]
    slightly = mask(0, 1, 2, 3, 4)
    drawn = {
        tuple(pairs(logits(same, slightly), [same], seed=seed).predicted[0].flatten().tolist())
        for seed in range(20)
    }
    assert len(drawn) == 2


def test_no_more_than_asked_for():
    masks = [mask(row) for row in range(6)]
    found = pairs(logits(*masks), masks, count=3)
    assert len(set(found.labels.tolist())) == 3 and -1 not in found.labels


def test_nothing_to_match():
    found = pairs(logits(mask(0)), [mask(7)])
    assert found.labels.tolist() == [-1] * 4 and found.predicted.shape == (4, 8, 8)
    empty = iou_pairs(
        logits(mask(0)), torch.zeros(0, 8, 8, dtype=torch.bool), torch.zeros(0, dtype=torch.long),
        cut=0.4, count=2, generator=torch.Generator(),
    )  # fmt: skip
    assert empty.labels.tolist() == [-1, -1]
