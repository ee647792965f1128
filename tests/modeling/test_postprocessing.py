import pytest
import torch

from maftp.modeling.postprocessing import (
    Frame,
    crop_and_resize,
    instance_inference,
    panoptic_inference,
    semantic_inference,
)

THRESHOLDS = {"object_threshold": 0.2, "overlap_threshold": 0.7}


def scores_of(*rows):
    return torch.tensor(rows).log()


def logits_of(*masks):
    """Mask logits of +-10 from strings of 0 and 1, rows apart by a blank."""
    values = [[[int(c) for c in row] for row in mask.split()] for mask in masks]
    return torch.tensor(values).float() * 20 - 10


def test_semantic_is_a_sum_over_queries():
    # classes (0.6, 0.3), void 0.1; masks sigmoid(0) = 0.5: two equal queries give 0.6 and 0.3
    scores = scores_of([0.6, 0.3, 0.1], [0.6, 0.3, 0.1])
    semantic = semantic_inference(scores, torch.zeros(2, 1, 1))
    torch.testing.assert_close(semantic.flatten(), torch.tensor([0.6, 0.3]))


def test_crop_and_resize_cuts_the_padding_first():
    maps = torch.zeros(1, 4, 4)
    maps[0, :2, :3] = 1.0
    assert torch.equal(crop_and_resize(maps, (2, 3), (4, 6)), torch.ones(1, 4, 6))


def test_stuff_of_one_class_shares_an_id_and_things_do_not():
    rows = [[0.9, 0.05, 0.05], [0.8, 0.1, 0.1]]
    masks = logits_of("1100 1100", "0011 0011")
    ids, segments = panoptic_inference(scores_of(*rows), masks, (), **THRESHOLDS)
    assert ids.tolist() == [[1, 1, 1, 1], [1, 1, 1, 1]]
    assert segments == [{"id": 1, "isthing": False, "category_id": 0}]
    ids, segments = panoptic_inference(scores_of(*rows), masks, (0,), **THRESHOLDS)
    assert ids.tolist() == [[1, 1, 2, 2], [1, 1, 2, 2]]
    assert [segment["id"] for segment in segments] == [1, 2]
    assert ids.dtype == torch.int32


def test_query_that_wins_too_little_of_its_own_area_is_dropped():
    # query 1 owns four pixels, query 0 wins two of them: 2 / 4 < 0.7
    rows = [[0.9, 0.05, 0.05], [0.05, 0.8, 0.15]]
    masks = logits_of("1110", "0111")
    masks[1, 0] = torch.tensor([-10.0, 10.0, 10.0, 10.0])
    ids, segments = panoptic_inference(scores_of(*rows), masks, (), **THRESHOLDS)
    assert [segment["category_id"] for segment in segments] == [0]
    assert ids.tolist() == [[1, 1, 1, 0]]
    # 7 of 10 is not less than 0.7
    masks = logits_of("1110000000", "1111111111")
    _, segments = panoptic_inference(scores_of(*rows), masks, (), **THRESHOLDS)
    assert [segment["category_id"] for segment in segments] == [0, 1]


def test_void_and_unsure_queries_make_nothing():
    rows = [[0.1, 0.1, 0.8], [0.2, 0.19, 0.19]]
    rows[1] = [0.2, 0.2, 0.2, 0.2, 0.2]  # five equal: the first is the best, but not above 0.2
    for row in rows:
        ids, segments = panoptic_inference(
            scores_of(row), torch.full((1, 2, 2), 9.0), (), **THRESHOLDS
        )
        assert segments == []
        assert not ids.any()


def test_pixels_below_one_half_stay_unassigned():
    masks = torch.tensor([[[5.0, -5.0]]])  # wins both pixels, owns one: |won| / |own| = 2
    ids, segments = panoptic_inference(scores_of([0.9, 0.1]), masks, (), **THRESHOLDS)
    assert ids.tolist() == [[1, 0]]
    assert len(segments) == 1


def test_instances():
    rows = [[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]]
    masks = logits_of("10", "11")
    found = instance_inference(scores_of(*rows), masks, None)
    assert len(found) == 4  # fewer than 100 pairs of query and class
    order = found.scores.argsort(descending=True)
    assert found.pred_classes[order].tolist() == [0, 1, 1, 0]
    # score = class probability times the mean mask probability inside, sigmoid(10) = 0.99995
    assert found.scores.max().item() == pytest.approx(0.7 * 0.99995, abs=1e-4)
    assert not found.pred_boxes.tensor.any()
    only_things = instance_inference(scores_of(*rows), masks, (1,))
    assert only_things.pred_classes.tolist() == [1, 1]


def test_no_map_is_resized_to_none():
    frame = Frame(canvas=(32, 32), image_size=(20, 24), size=(10, 12))
    assert frame.fit(frame.upsample(torch.zeros(0, 8, 8))).shape == (0, 10, 12)
