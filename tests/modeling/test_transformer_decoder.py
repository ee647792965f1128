import math

import pytest
import torch

from maftp.modeling.transformer_decoder import TransformerDecoder


@pytest.fixture
def decoder():
    torch.manual_seed(0)
    return TransformerDecoder(
        embed_dim=16, num_queries=5, hidden_dim=32, num_heads=4, num_layers=4, feedforward_dim=64
    )


@pytest.fixture
def inputs():
    torch.manual_seed(1)
    memory = [torch.randn(2, 32, 2, 3), torch.randn(2, 32, 4, 6), torch.randn(2, 32, 8, 12)]
    text = torch.nn.functional.normalize(torch.randn(5, 16), dim=-1)
    return torch.randn(2, 32, 16, 24), memory, text, torch.tensor([[0, 1], [2, 2], [3, 3]])


def test_a_prediction_before_each_layer_and_after_the_last(decoder, inputs):
    outputs = decoder(*inputs, auxiliary=True)
    assert outputs["pred_logits"].shape == (2, 5, 4)
    assert outputs["pred_masks"].shape == (2, 5, 16, 24)
    assert len(outputs["aux_outputs"]) == 4


def test_inference_gives_the_same_last_prediction(decoder, inputs):
    full, last = decoder(*inputs, auxiliary=True), decoder(*inputs, auxiliary=False)
    assert set(last) == {"pred_logits", "pred_masks"}
    assert torch.equal(full["pred_logits"], last["pred_logits"])
    assert torch.equal(full["pred_masks"], last["pred_masks"])


def test_permuting_queries_permutes_outputs(decoder, inputs):
    before = decoder(*inputs, auxiliary=False)
    order = torch.tensor([3, 1, 4, 0, 2])
    with torch.no_grad():
        for table in (decoder.query_feat, decoder.query_embed):
            table.weight.copy_(table.weight[order].clone())
    after = decoder(*inputs, auxiliary=False)
    torch.testing.assert_close(
        after["pred_logits"], before["pred_logits"][:, order], atol=1e-4, rtol=1e-4
    )


def test_blocked_where_the_mask_is_below_one_half(decoder):
    # sigmoid(0) = 0.5 may be attended; a row that is blocked everywhere is opened everywhere
    masks = torch.tensor([[[[1.0, -1.0], [0.0, -2.0]], [[-1.0, -1.0], [-1.0, -1.0]]]])
    blocked = decoder._blocked(masks, torch.zeros(1, 32, 2, 2))
    assert blocked.shape == (4, 2, 4)  # the same for all four heads
    assert blocked[0].tolist() == [[False, True, False, True], [False] * 4]


def test_initial_scale(decoder):
    assert decoder.logit_scale.item() == pytest.approx(math.log(1 / 0.07))
    assert decoder.logit_scale.item() == pytest.approx(2.6593, abs=1e-4)
