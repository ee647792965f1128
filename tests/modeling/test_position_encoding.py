import math

import torch

from maftp.modeling.position_encoding import sine_encoding

CPU = torch.device("cpu")


def test_one_pixel():
    # Row and column are 1 of 1: angle 2 pi / (1 + 1e-6), frequencies 1, 1, 1/100, 1/100 (n = 4).
    angle = 2 * math.pi / (1 + 1e-6)
    half = [math.sin(angle), math.cos(angle), math.sin(angle / 100), math.cos(angle / 100)]
    code = sine_encoding(1, 1, 8, device=CPU)
    torch.testing.assert_close(code, torch.tensor([half + half]), atol=1e-6, rtol=0)


def test_row_half_comes_first_and_pixels_go_row_by_row():
    code = sine_encoding(2, 3, 8, device=CPU).view(2, 3, 8)
    # the first half depends on the row alone, the second on the column alone
    assert torch.equal(code[:, :1, :4].expand(2, 3, 4), code[..., :4])
    assert torch.equal(code[:1, :, 4:].expand(2, 3, 4), code[..., 4:])
    # row 1 of 2 is at pi, column 1 of 3 at 2 pi / 3
    assert abs(code[0, 0, 1].item() - math.cos(math.pi)) < 1e-5
    assert abs(code[0, 0, 4].item() - math.sin(2 * math.pi / 3)) < 1e-5
