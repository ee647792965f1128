"""Deformable attention against a direct sum over the four neighbours."""

import math
import subprocess
import sys

import pytest
import torch

from maftp.ops import ms_deform_attn

SHAPES = [(3, 4), (2, 2)]


def random_inputs(dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tokens = sum(h * w for h, w in SHAPES)
    value = torch.randn(2, tokens, 2, 3, generator=generator, dtype=dtype)
    # from -0.4 to 1.4: some samples lie outside by less than a cell, some by more
    locations = torch.rand(2, 5, 2, 2, 3, 2, generator=generator, dtype=dtype) * 1.8 - 0.4
    weights = torch.rand(2, 5, 2, 2, 3, generator=generator, dtype=dtype)
    return value, locations, weights


def neighbour_sum(value, locations, weights):
    """The definition: bilinear weights (1-|u-j|)(1-|t-i|) over the neighbours inside the grid."""
    batch, _, heads, channels = value.shape
    queries, points = locations.shape[1], locations.shape[4]
    output = torch.zeros(batch, queries, heads, channels, dtype=value.dtype)
    for b in range(batch):
        for q in range(queries):
            for m in range(heads):
                start = 0
                for level, (h, w) in enumerate(SHAPES):
                    for p in range(points):
                        x, y = locations[b, q, m, level, p].tolist()
                        u, t = x * w - 0.5, y * h - 0.5
                        for i in (math.floor(t), math.floor(t) + 1):
                            for j in (math.floor(u), math.floor(u) + 1):
                                if 0 <= i < h and 0 <= j < w:
                                    share = (1 - abs(u - j)) * (1 - abs(t - i))
                                    share *= weights[b, q, m, level, p]
                                    output[b, q, m] += share * value[b, start + i * w + j, m]
                    start += h * w
    return output.flatten(2)


def test_equals_direct_neighbour_sum():
    value, locations, weights = random_inputs()
    expected = neighbour_sum(value, locations, weights)
    torch.testing.assert_close(ms_deform_attn(value, SHAPES, locations, weights), expected)


def test_pixel_centre_reads_that_pixel():
    value = torch.arange(12.0).view(1, 12, 1, 1)
    # row 1, column 2 of 3 x 4: x = 2.5 / 4, y = 1.5 / 3; flat index 1 * 4 + 2 = 6
    location = torch.tensor([2.5 / 4, 1.5 / 3]).view(1, 1, 1, 1, 1, 2)
    output = ms_deform_attn(value, [(3, 4)], location, torch.ones(1, 1, 1, 1, 1))
    assert output.item() == pytest.approx(6.0)


@pytest.mark.parametrize("x", [-0.5 / 4, 1 + 0.5 / 4, -3.0, 4.0])
def test_more_than_one_cell_outside_gives_zero(x):
    # u = 4x - 0.5 is -1, 4, and far outside: no neighbour inside has a weight
    value = torch.ones(1, 12, 1, 1)
    location = torch.tensor([x, 0.5]).view(1, 1, 1, 1, 1, 2)
    output = ms_deform_attn(value, [(3, 4)], location, torch.ones(1, 1, 1, 1, 1))
    assert output.item() == pytest.approx(0.0, abs=1e-6)


def test_half_a_cell_outside_counts_the_inner_neighbour():
    # u = -0.5: column -1 is outside and counts as zero, column 0 has weight 0.5
    value = torch.ones(1, 12, 1, 1)
    location = torch.tensor([0.0, 0.5]).view(1, 1, 1, 1, 1, 2)
    output = ms_deform_attn(value, [(3, 4)], location, torch.ones(1, 1, 1, 1, 1))
    assert output.item() == pytest.approx(0.5)


def test_gradients():
    value, locations, weights = (tensor.requires_grad_() for tensor in random_inputs())
    assert torch.autograd.gradcheck(
        lambda v, x, a: ms_deform_attn(v, SHAPES, x, a), (value, locations, weights)
    )


def test_location_gradient_is_width_times_derivative():
    # On the ramp f(u) = u the derivative by x = (u + 0.5) / w is w = 4; f does not depend on y.
    value = torch.arange(4.0).repeat(3).view(1, 12, 1, 1)
    location = torch.tensor([0.4, 0.5]).view(1, 1, 1, 1, 1, 2).requires_grad_()
    ms_deform_attn(value, [(3, 4)], location, torch.ones(1, 1, 1, 1, 1)).sum().backward()
    torch.testing.assert_close(location.grad.flatten(), torch.tensor([4.0, 0.0]))


@pytest.mark.slow  # it compiles
def test_registration_passes_pytorchs_own_checks():
    value, locations, weights = (tensor.requires_grad_() for tensor in random_inputs())
    flat = [side for shape in SHAPES for side in shape]
    torch.library.opcheck(
        torch.ops.maftp.ms_deform_attn.default, (value, flat, locations, weights, "torch")
    )
    inputs = (value.detach(), flat, locations.detach(), weights.detach(), "torch")
    grad = torch.randn(2, 5, 6, dtype=torch.float64)
    torch.library.opcheck(torch.ops.maftp.ms_deform_attn_backward.default, (grad, *inputs))


@pytest.mark.slow  # the first compilation of a process takes seconds
def test_compiles_into_one_graph():
    value, locations, weights = (tensor.requires_grad_() for tensor in random_inputs())
    compiled = torch.compile(
        lambda v, x, a: 2 * ms_deform_attn(v, SHAPES, x, a), fullgraph=True, backend="aot_eager"
    )
    output = compiled(value, locations, weights)
    assert torch.equal(output, 2 * ms_deform_attn(value, SHAPES, locations, weights))
    found = torch.autograd.grad(output.sum(), value)
    assert torch.equal(
        found[0],
        torch.autograd.grad(2 * ms_deform_attn(value, SHAPES, locations, weights).sum(), value)[0],
    )


def test_autocast_computes_in_float32():
    value, locations, weights = random_inputs(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = ms_deform_attn(value.bfloat16(), SHAPES, locations, weights)
    assert output.dtype == torch.float32
    plain = ms_deform_attn(value.bfloat16().float(), SHAPES, locations, weights)
    assert torch.equal(output, plain)


@pytest.mark.slow  # a process of its own
def test_one_call_imports_no_compiler():
    # PyTorch's compiler takes as long to import as the rest of PyTorch.
    code = (
        "import sys, torch; from maftp.ops import ms_deform_attn as f; "
        "f(torch.ones(1, 4, 1, 2), [(2, 2)], torch.rand(1, 3, 1, 1, 1, 2), "
        "torch.ones(1, 3, 1, 1, 1)); "
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_locations_must_match_weights_and_value():
    value, locations, weights = random_inputs()
    with pytest.raises(ValueError, match="do not match weights"):
        ms_deform_attn(value, SHAPES, locations, weights[..., :2])
    with pytest.raises(ValueError, match="do not match value"):
        ms_deform_attn(value[:1], SHAPES, locations, weights)


def test_levels_must_match_tokens():
    value, locations, weights = random_inputs()
    with pytest.raises(ValueError, match="do not match 16 value tokens"):
        ms_deform_attn(value, [(3, 4), (2, 3)], locations, weights)
