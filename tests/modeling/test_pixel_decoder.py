import torch

from maftp.modeling.pixel_decoder import DeformableAttention, PixelDecoder, pixel_centres


def test_initial_offsets_point_in_eight_directions():
    attention = DeformableAttention(hidden_dim=32, num_heads=8, num_points=4)
    assert not attention.sampling_offsets.weight.any()
    bias = attention.sampling_offsets.bias.view(8, 3, 4, 2)
    directions = [(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)]
    for head, direction in enumerate(directions):
        for point in range(4):
            expected = torch.tensor(direction).float().expand(3, 2) * (point + 1)
            torch.testing.assert_close(bias[head, :, point], expected, atol=1e-5, rtol=0)


def test_centres_are_x_then_y():
    # 1 row of 2 pixels: x = 1/4, 3/4 and y = 1/2
    centres = pixel_centres(1, 2, device=torch.device("cpu"))
    assert centres.tolist() == [[0.25, 0.5], [0.75, 0.5]]


def test_maps_keep_their_order_and_sizes():
    channels = {"res2": 8, "res3": 12, "res4": 16, "res5": 24}
    decoder = PixelDecoder(
        in_channels=channels,
        hidden_dim=32,
        num_heads=4,
        num_layers=1,
        feedforward_dim=64,
        num_points=2,
    )
    features = {
        name: torch.randn(2, width, 64 // stride, 96 // stride)
        for (name, width), stride in zip(channels.items(), (4, 8, 16, 32), strict=True)
    }
    mask_features, memory = decoder(features)
    assert mask_features.shape == (2, 32, 16, 24)
    assert [tuple(level.shape[-2:]) for level in memory] == [(2, 3), (4, 6), (8, 12)]


def test_stays_in_float32_under_autocast():
    channels = {"res2": 8, "res3": 8, "res4": 8, "res5": 8}
    decoder = PixelDecoder(
        in_channels=channels,
        hidden_dim=32,
        num_heads=4,
        num_layers=1,
        feedforward_dim=32,
        num_points=1,
    )
    features = {
        name: torch.randn(1, 8, 64 // stride, 64 // stride, dtype=torch.bfloat16)
        for name, stride in zip(channels, (4, 8, 16, 32), strict=True)
    }
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mask_features, _ = decoder(features)
    assert mask_features.dtype == torch.float32
