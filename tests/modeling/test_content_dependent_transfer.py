import pytest
import torch
from torch import nn

from maftp.modeling.content_dependent_transfer import ContentDependentTransfer, dense_tokens


def test_released_tokens_are_channel_planes():
    # C = 4 and h = w = 2: each run of four numbers is one whole channel plane
    dense = torch.arange(16.0).view(1, 4, 2, 2)
    tokens = dense_tokens(dense, order="released")
    assert tokens[0].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]


def test_spatial_tokens_are_pixels():
    dense = torch.arange(16.0).view(1, 4, 2, 2)
    tokens = dense_tokens(dense, order="spatial")
    assert tokens[0].tolist() == [[0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15]]


@pytest.mark.parametrize("order", ["released", "spatial"])
def test_memory_format_does_not_matter_and_images_stay_apart(order):
    dense = torch.randn(2, 6, 2, 3)
    tokens = dense_tokens(dense, order=order)
    channels_last = dense.contiguous(memory_format=torch.channels_last)
    assert torch.equal(dense_tokens(channels_last, order=order), tokens)
    assert torch.equal(dense_tokens(dense[1:], order=order), tokens[1:])


def transfer(form):
    torch.manual_seed(0)
    return ContentDependentTransfer(embed_dim=16, num_heads=4, form=form, tokens="released")


def test_panoptic_form_starts_as_the_identity():
    text = nn.functional.normalize(torch.randn(5, 16), dim=-1)
    adapted = transfer("panoptic")(text, torch.randn(2, 8, 2, 2), nn.Linear(8, 16))
    assert torch.equal(adapted, text.expand(2, -1, -1))


def test_semantic_form_has_rows_of_norm_sqrt_d():
    # LN gives mean 0 and variance 1 (up to its eps): a squared norm of D = 16
    adapted = transfer("semantic")(torch.randn(5, 16), torch.randn(2, 8, 2, 2), nn.Linear(8, 16))
    torch.testing.assert_close(adapted.norm(dim=-1), torch.full((2, 5), 4.0), atol=1e-2, rtol=0)


def test_rows_of_text_do_not_interact():
    cdt, head = transfer("semantic"), nn.Linear(8, 16)
    text, dense = torch.randn(5, 16), torch.randn(1, 8, 2, 2)
    alone = cdt(text[2:3], dense, head)
    torch.testing.assert_close(cdt(text, dense, head)[:, 2:3], alone)


def test_further_layers_adapt_what_the_first_one_gave():
    two = ContentDependentTransfer(
        embed_dim=16, num_heads=4, form="semantic", tokens="released", num_layers=2
    )
    one = ContentDependentTransfer(embed_dim=16, num_heads=4, form="semantic", tokens="released")
    one.cross_atten.load_state_dict(two.cross_atten.state_dict())
    again = ContentDependentTransfer(embed_dim=16, num_heads=4, form="semantic", tokens="released")
    again.cross_atten.load_state_dict(two.more_layers[0].state_dict())
    text, dense, head = torch.randn(5, 16), torch.randn(1, 8, 2, 2), nn.Linear(8, 16)
    first = one(text, dense, head)
    torch.testing.assert_close(two(text, dense, head), again(first[0], dense, head))
    # released weights have one layer and no names of further ones
    assert not any(name.startswith("more_layers") for name in one.state_dict())
