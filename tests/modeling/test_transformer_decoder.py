import math

import pytest
import torch
import torch.nn.functional as F

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
    text = F.normalize(torch.randn(5, 16), dim=-1)
    return torch.randn(2, 32, 16, 24), memory, text, torch.tensor([[0, 1], [2, 2], [3, 3]])


def test_a_prediction_before_each_layer_and_after_the_last(decoder, inputs):
    outputs = decoder(*inputs, auxiliary=True)
    assert outputs.logits.shape == (2, 5, 5, 4)
    assert outputs.masks.shape == (2, 5, 5, 16, 24)
    assert outputs.embeddings.shape == (2, 5, 5, 32)
    masks = torch.einsum("blqc,bchw->blqhw", outputs.embeddings, outputs.features)
    torch.testing.assert_close(outputs.masks, masks)


def test_inference_gives_the_same_last_prediction(decoder, inputs):
    full, last = decoder(*inputs, auxiliary=True), decoder(*inputs, auxiliary=False)
    assert last.logits.shape == (2, 1, 5, 4)
    torch.testing.assert_close(full.logits[:, -1], last.logits[:, -1])
    torch.testing.assert_close(full.masks[:, -1], last.masks[:, -1])


def test_permuting_queries_permutes_outputs(decoder, inputs):
    before = decoder(*inputs, auxiliary=False)
    order = torch.tensor([3, 1, 4, 0, 2])
    with torch.no_grad():
        for table in (decoder.query_feat, decoder.query_embed):
            table.weight.copy_(table.weight[order].clone())
    after = decoder(*inputs, auxiliary=False)
    torch.testing.assert_close(after.logits, before.logits[:, :, order], atol=1e-4, rtol=1e-4)


def test_blocked_where_the_resized_mask_is_below_one_half(decoder, inputs):
    mask_features, [memory, *_], *_ = inputs
    output = torch.randn(2, 5, 32)
    embedding = decoder.mask_embed(decoder.decoder_norm(output))
    masks = torch.einsum("bqc,bchw->bqhw", embedding, mask_features)
    size = memory.shape[-2:]
    resized = F.interpolate(masks, size=size, mode="bilinear", align_corners=False)
    expected = resized.flatten(2) < 0
    expected &= ~expected.all(-1, keepdim=True)
    small = F.interpolate(mask_features, size=size, mode="bilinear", align_corners=False)
    found = decoder._blocked(output, small)
    assert torch.equal(found.isneginf(), expected[:, None])
    assert not found[~expected[:, None]].any()


def test_a_mask_that_hides_everything_hides_nothing(decoder):
    # Constant features give each query one logit everywhere: all of it blocked, or nothing.
    blocked = decoder._blocked(torch.randn(1, 5, 32), torch.ones(1, 32, 2, 2))
    assert not blocked.any()


def test_initial_scale(decoder):
    assert decoder.logit_scale.item() == pytest.approx(math.log(1 / 0.07))
    assert decoder.logit_scale.item() == pytest.approx(2.6593, abs=1e-4)
