import math

import pytest
import torch
import torch.nn.functional as F

from maftp.modeling.mask_classification import (
    best_synonyms,
    class_scores,
    classify,
    geometric_ensemble,
    has_area,
    mask_pool,
)


def test_mask_pool_averages_under_the_mask():
    features = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]], requires_grad=True)
    masks = torch.tensor([[[[5.0, -1.0], [0.0, 2.0]], [[-1.0, -1.0], [-1.0, -1.0]]]])
    pooled = mask_pool(features, masks)
    # query 0 covers 1 and 4 (a logit of 0 is outside): mean 2.5; query 1 is empty: zero, not NaN
    torch.testing.assert_close(pooled, torch.tensor([[[2.5], [0.0]]]))
    pooled.sum().backward()
    torch.testing.assert_close(features.grad, torch.tensor([[[[0.5, 0.0], [0.0, 0.5]]]]))


def test_mask_pool_resizes_logits_and_gives_masks_no_gradient():
    features = torch.tensor([[[[7.0]]]])
    # averaged to one pixel the logits are (3 - 1 - 1 + 1) / 4 = 0.5 > 0; rounded masks would be 0.5
    masks = torch.tensor([[[[3.0, -1.0], [-1.0, 1.0]]]], requires_grad=True)
    pooled = mask_pool(features, masks)
    assert pooled.item() == pytest.approx(7.0)
    assert not pooled.requires_grad


def test_has_area():
    masks = torch.stack([torch.full((4, 4), -1.0), torch.eye(4) * 9 - 1])[None]
    assert has_area(masks, (4, 4)).tolist() == [[False, True]]


def test_best_synonym_of_each_class_and_void():
    logits = torch.tensor([[1.0, 5.0, 2.0, 7.0, 3.0, 0.5]])
    # classes own rows (1, 5, 2), (7), (3); void is 0.5
    rows = torch.tensor([[0, 1, 2], [3, 3, 3], [4, 4, 4]])
    assert best_synonyms(logits, rows).tolist() == [[5.0, 7.0, 3.0, 0.5]]
    assert torch.equal(best_synonyms(logits, torch.arange(5)[:, None]), logits)


def test_gradient_of_ties_goes_to_one_synonym():
    logits = torch.tensor([2.0, 2.0, 2.0, 1.0, 0.0], requires_grad=True)
    best_synonyms(logits, torch.tensor([[0, 1, 2], [3, 3, 3]])).sum().backward()
    # as torch.max does: one winner, not a third each
    assert logits.grad.tolist() == [1.0, 0.0, 0.0, 1.0, 1.0]


def test_classify_normalises_embeddings_but_not_text():
    embeddings = torch.tensor([[[3.0, 4.0]]])  # unit vector (0.6, 0.8)
    text = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    logits = classify(embeddings, text, torch.tensor(math.log(10.0)), torch.tensor([[0], [1]]))
    # 10 * (1.2, 0.8, 1.4): the row of norm 2 counts twice
    torch.testing.assert_close(logits, torch.tensor([[[12.0, 8.0, 14.0]]]))


def test_classify_caps_the_scale_and_takes_text_per_image():
    embeddings = torch.ones(2, 1, 1)
    text = torch.tensor([[[1.0], [0.0]], [[0.5], [0.0]]])
    logits = classify(embeddings, text, torch.tensor(9.0), torch.tensor([[0]]))  # e^9 is above 100
    assert logits[:, 0, 0].tolist() == [100.0, 50.0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_leaves_logits_in_single_precision(dtype):
    # Text of norm sqrt(640) and a scale of 100, as after content-dependent transfer: in half
    # precision logits of several hundred are rounded to steps of 0.25 (float16) or 2 (bfloat16).
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(1, 50, 640, generator=generator).to(dtype)
    text = 3 * embeddings[0, :20].float() + torch.randn(20, 640, generator=generator)
    text = torch.cat([F.normalize(text, dim=-1) * 640**0.5, text[:1]])
    rows = torch.arange(20)[:, None]
    exact = 100 * F.normalize(embeddings.double(), dim=-1) @ text.double().T
    with torch.autocast("cpu", dtype=dtype):
        logits = classify(embeddings, text, torch.tensor(9.0), rows)
    assert logits.dtype == torch.float32 and logits[..., :-1].max() > 900
    difference = logits.softmax(-1).double() - exact.softmax(-1)
    assert difference.abs().max() < 1e-3


def test_float16_pools_masks_of_any_size():
    # All of a map of 200 x 304 pixels, whose shares of 1 / 60800 are not normal numbers in float16.
    features = 100 + torch.randn(1, 4, 200, 304, generator=torch.Generator().manual_seed(0))
    masks = torch.ones(1, 1, 200, 304)
    expected = features.mean((2, 3))[:, None]
    with torch.autocast("cpu", dtype=torch.float16):
        pooled = mask_pool(features, masks)
    torch.testing.assert_close(pooled.float(), expected, rtol=2e-3, atol=0)


def test_class_scores_sum_to_one():
    head, clip = torch.randn(2, 3, 5), torch.randn(2, 3, 5) * 50
    scores = class_scores(head, clip)
    torch.testing.assert_close(scores.softmax(-1).sum(-1), torch.ones(2, 3))
    # the log scores themselves are probabilities up to 1e-8 each
    torch.testing.assert_close(scores.exp().sum(-1), torch.ones(2, 3), atol=1e-6, rtol=0)


def test_certain_void_leaves_no_class():
    head = torch.tensor([[[0.0, 0.0, 60.0]]])
    probabilities = class_scores(head, torch.randn(1, 1, 3)).softmax(-1)
    assert probabilities[..., :-1].max() <= 2e-8
    assert probabilities[..., -1].item() == pytest.approx(1.0)


def test_geometric_ensemble_by_hand():
    # p_in = (1/2, 1/2), p_out = (1/5, 4/5), no void: class 0 seen (0.4), class 1 new (0.8)
    head = torch.tensor([[[0.0, 0.0, -100.0]]])
    clip = torch.tensor([[[0.0, math.log(4.0), 7.0]]])
    scores = geometric_ensemble(head, clip, torch.tensor([True, False]), alpha=0.4, beta=0.8)
    first, second = 0.5**0.6 * 0.2**0.4, 0.5**0.2 * 0.8**0.8
    expected = torch.tensor([first, second]) / (first + second)
    torch.testing.assert_close(scores[0, 0, :2].exp(), expected, atol=1e-6, rtol=0)


def test_geometric_ensemble_survives_underflow():
    # the product of probabilities underflows to zero here, its logarithm does not
    head = torch.tensor([[[0.0, 0.0, 0.0]]])
    clip = torch.tensor([[[2000.0, -2000.0, 0.0]]])
    scores = geometric_ensemble(head, clip, torch.tensor([True, False]), alpha=0.4, beta=0.8)
    assert torch.isfinite(scores).all()
    assert scores.argmax().item() == 0


def test_geometric_ensemble_leaves_invalid_queries_to_the_head():
    head = torch.tensor([[[2.0, 0.0, 0.0]]])
    clip = torch.tensor([[[float("nan"), float("nan"), 0.0]]])
    seen = torch.tensor([True, False])
    scores = geometric_ensemble(
        head, clip, seen, alpha=0.4, beta=0.8, valid=torch.tensor([[False]])
    )
    inner = head[..., :2].softmax(-1) * (1 - head.softmax(-1)[..., -1:])
    torch.testing.assert_close(scores[..., :2].exp(), inner, atol=1e-6, rtol=0)
