import numpy as np
import pytest
import torch
from detectron2.data.transforms import ResizeShortestEdge
from PIL import Image

from maftp.config import load_params
from maftp.data.images import segment_colors
from maftp.data.mapper import (
    PanopticMapper,
    SemanticMapper,
    TestMapper,
    crop_square,
    jittered_size,
    resize_image,
    resize_label,
    resized_size,
)
from maftp.errors import DataError


@pytest.fixture
def record(tmp_path):
    """Return a record of a 40 x 60 image with classes 3 (left), 7, and ignored pixels (bottom)."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "image.png")
    label = np.full((40, 60), 7, np.uint8)
    label[:, :20] = 3
    label[30:] = 255
    Image.fromarray(label).save(tmp_path / "label.png")
    ids = np.zeros((40, 60), np.int32)
    ids[:, :20], ids[:, 20:40], ids[:, 40:] = 70000, 5, 9
    Image.fromarray(segment_colors(ids)).save(tmp_path / "panoptic.png")
    return {
        "file_name": str(tmp_path / "image.png"),
        "sem_seg_file_name": str(tmp_path / "label.png"),
        "pan_seg_file_name": str(tmp_path / "panoptic.png"),
        "segments_info": [
            {"id": 9, "category_id": 4, "iscrowd": 1},
            {"id": 70000, "category_id": 2, "iscrowd": 0},
            {"id": 5, "category_id": 1, "iscrowd": 0},
        ],
        "image_id": "image",
        "height": 40,
        "width": 60,
    }


def rng():
    return np.random.default_rng(0)


def test_semantic_sample(record):
    item = SemanticMapper(short_side=80, max_side=200, flip=0.0)(record, rng())
    assert item["image"].shape == (3, 80, 120) and item["image"].dtype == torch.uint8
    assert (item["height"], item["width"]) == (40, 60)
    instances = item["instances"]
    assert instances.gt_classes.tolist() == [3, 7] and instances.gt_classes.dtype == torch.int64
    masks = instances.gt_masks.tensor
    assert masks.dtype == torch.bool and masks.shape == (2, 80, 120)
    expected = torch.zeros(80, 120, dtype=torch.bool)
    expected[:60, :40] = True
    assert torch.equal(masks[0], expected)
    expected = torch.zeros(80, 120, dtype=torch.bool)
    expected[:60, 40:] = True
    assert torch.equal(masks[1], expected)
    picture = Image.open(record["file_name"]).resize((120, 80), Image.Resampling.BILINEAR)
    assert np.array_equal(item["image"].permute(1, 2, 0), np.asarray(picture))


def test_flip_turns_image_and_masks(record):
    plain = SemanticMapper(short_side=80, max_side=200, flip=0.0)(record, rng())
    flipped = SemanticMapper(short_side=80, max_side=200, flip=1.0)(record, rng())
    assert torch.equal(flipped["image"], plain["image"].flip(2))
    masks = [item["instances"].gt_masks.tensor for item in (plain, flipped)]
    assert torch.equal(masks[1], masks[0].flip(2))


def test_flips_are_drawn_from_the_given_generator(record):
    mapper = SemanticMapper(short_side=40, max_side=200, flip=0.5)
    plain = SemanticMapper(short_side=40, max_side=200, flip=0.0)(record, rng())["image"]
    flips = [
        not torch.equal(mapper(record, np.random.default_rng(seed))["image"], plain)
        for seed in range(40)
    ]
    assert flips == [bool(np.random.default_rng(seed).random() < 0.5) for seed in range(40)]


def test_an_unlabelled_image_has_no_masks(record):
    Image.fromarray(np.full((40, 60), 255, np.uint8)).save(record["sem_seg_file_name"])
    item = SemanticMapper(short_side=80, max_side=200, flip=0.5)(record, rng())
    assert len(item["instances"]) == 0
    assert item["instances"].gt_masks.tensor.shape == (0, 80, 120)


@pytest.mark.parametrize("mapper", [SemanticMapper, PanopticMapper])
def test_another_size_of_the_label_names_both_files(mapper, record):
    sizes = {"short_side": 80, "max_side": 200}
    if mapper is PanopticMapper:
        sizes = {"crop_size": 80, "scale_range": (0.1, 2.0)}
    image = Image.open(record["file_name"])
    image.resize((59, 40)).save(record["file_name"])
    with pytest.raises(
        DataError, match=r"(label|panoptic)\.png: .*60 x 40.*image\.png has 59 x 40"
    ):
        mapper(**sizes, flip=0.0)(record, rng())


def test_a_damaged_image_is_named(record, tmp_path):
    data = (tmp_path / "image.png").read_bytes()
    (tmp_path / "image.png").write_bytes(data[: len(data) // 2])
    for mapper in (
        lambda r: SemanticMapper(short_side=80, max_side=200, flip=0.0)(r, rng()),
        TestMapper(short_side=80, max_side=200),
    ):
        with pytest.raises(DataError, match=r"image\.png: damaged or cut short"):
            mapper(record)


@pytest.mark.parametrize(
    ("scale", "size"),
    # factor = min(1024 u / h, 1024 u / w); 480 x 640 with u = 0.5: 0.8
    [(0.5, (384, 512)), (2.0, (1536, 2048)), (0.1, (77, 102))],
)
def test_jittered_size(scale, size):
    assert jittered_size(480, 640, scale=scale, crop_size=1024) == size


def test_jittered_size_rounds_half_to_even():
    assert jittered_size(1, 2, scale=1.0, crop_size=5) == (2, 5)  # 2.5
    assert jittered_size(3, 2, scale=1.0, crop_size=21) == (21, 14)


def test_crop_and_padding():
    image = np.arange(5 * 3, dtype=np.uint8).reshape(5, 3, 1).repeat(3, 2)
    crop = crop_square(image, 0.5, size=4, fill=128)[..., 0]
    # rows: room 1, offset round(0.5) = 0 to even; columns: no room, padded on the right
    assert crop.tolist() == [
        [0, 1, 2, 128],
        [3, 4, 5, 128],
        [6, 7, 8, 128],
        [9, 10, 11, 128],
    ]
    assert crop_square(image, 0.99, size=4, fill=0)[0, 0, 0] == 3


def test_panoptic_sample(record):
    mapper = PanopticMapper(crop_size=64, scale_range=(0.5, 0.5), flip=0.0)
    item = mapper(record, rng())
    # factor = min(32 / 40, 32 / 60): 21 x 32 pixels in a crop of 64 x 64
    assert item["image"].shape == (3, 64, 64)
    assert (item["image"][:, 21:] == 128).all() and (item["image"][:, :, 32:] == 128).all()
    instances = item["instances"]
    assert instances.gt_classes.tolist() == [2, 1]  # the crowd has no mask
    masks = instances.gt_masks.tensor
    # columns 0..19 of 60 by pixel centres: (d + 0.5) * 60 / 32 < 20 for d < 10.17
    assert masks[0].sum() == 21 * 11 and masks[0, :21, :11].all()
    assert masks[1].sum() == 21 * 10 and masks[1, :21, 11:21].all()


def test_panoptic_segments_cropped_away_keep_empty_masks(record):
    mapper = PanopticMapper(crop_size=20, scale_range=(3.0, 3.0), flip=0.0)
    empty = 0
    for seed in range(10):
        # 40 x 60 of which 20 x 20 are kept: the crop moves by the same part along both axes
        generator = np.random.default_rng(seed)
        generator.random(), generator.uniform(3.0, 3.0)
        left = round(40 * generator.random())
        widths = [max(0, min(left + 20, end) - max(left, end - 20)) for end in (20, 40)]
        instances = mapper(record, np.random.default_rng(seed))["instances"]
        assert instances.gt_classes.tolist() == [2, 1]
        assert instances.gt_masks.tensor.sum((1, 2)).tolist() == [20 * width for width in widths]
        empty += 0 in widths
    assert 0 < empty < 10


def test_panoptic_flip(record):
    plain = PanopticMapper(crop_size=60, scale_range=(1.0, 1.0), flip=0.0)(record, rng())
    flipped = PanopticMapper(crop_size=60, scale_range=(1.0, 1.0), flip=1.0)(record, rng())
    assert torch.equal(flipped["image"], plain["image"].flip(2))
    masks = [item["instances"].gt_masks.tensor for item in (plain, flipped)]
    assert torch.equal(masks[1], masks[0].flip(2))


def test_evaluation_input(record):
    item = TestMapper(short_side=80, max_side=200)(record)
    assert item["image"].shape == (3, 80, 120) and (item["height"], item["width"]) == (40, 60)
    assert item["sem_seg_file_name"] == record["sem_seg_file_name"] and item["image_id"] == "image"
    assert "image" not in record


def test_evaluation_turns_images_by_exif_and_makes_grey_ones_rgb(record, tmp_path):
    grey = np.arange(40 * 60, dtype=np.uint16).reshape(40, 60) % 251
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.jpg"
    Image.fromarray(grey.astype(np.uint8)).save(path, exif=exif)
    item = TestMapper(short_side=40, max_side=200)(record | {"file_name": str(path)})
    assert item["image"].shape == (3, 60, 40) and (item["height"], item["width"]) == (60, 40)
    assert torch.equal(item["image"][0], item["image"][2])


def test_from_params():
    params = load_params("params.yaml")
    semantic = SemanticMapper.from_params(params)
    assert semantic.short_side == params.input.train.short_side
    assert PanopticMapper.from_params(params).scale_range == params.input.train.scale_range
    assert TestMapper.from_params(params).max_side == params.input.test.max_side


@pytest.mark.parametrize(
    ("size", "resized"),
    [((480, 640), (800, 1067)), ((427, 640), (800, 1199)), ((300, 1000), (400, 1333))],
)
def test_published_sizes(size, resized):
    assert resized_size(*size, short_side=800, max_side=1333) == resized


@pytest.mark.parametrize("size", [(1, 1), (2, 1280), (1280, 2), (1, 5000), (3, 40000)])
def test_the_thinnest_strip_keeps_a_pixel(size):
    resized = resized_size(*size, short_side=128, max_side=213)
    assert min(resized) == 1 or size == (1, 1)
    image = resize_image(np.zeros((*size, 3), np.uint8), *resized)
    assert image.shape[:2] == tuple(resize_label(np.zeros(size, np.uint8), *resized).shape)


def test_sizes_and_pixels_are_detectron2s():
    rng = np.random.default_rng(0)
    for _ in range(60):
        size = rng.integers(20, 900, 2).tolist()
        short, longest = int(rng.integers(32, 900)), int(rng.integers(900, 1400))
        image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        theirs = ResizeShortestEdge(short, longest).get_transform(image).apply_image(image)
        ours = resize_image(image, *resized_size(*size, short_side=short, max_side=longest))
        assert np.array_equal(ours, theirs)


def test_labels_follow_torchs_nearest_rule_for_doubles():
    generator = np.random.default_rng(0)
    for _ in range(30):
        height, width, new_height, new_width = generator.integers(5, 900, 4).tolist()
        label = generator.integers(0, 256, (height, width), dtype=np.uint8)
        doubles = torch.from_numpy(label.astype(np.float64))[None, None]
        size = (new_height, new_width)
        expected = torch.nn.functional.interpolate(doubles, size=size, mode="nearest")[0, 0]
        assert torch.equal(resize_label(label, *size).double(), expected)


def test_labels_of_16_bits():
    assert resize_label(np.array([[256, 65535]], np.uint16), 1, 4).tolist() == [
        [256] * 2 + [65535] * 2
    ]


def test_an_image_of_the_right_size_is_not_resampled():
    image = np.zeros((4, 5, 3), np.uint8)
    assert resize_image(image, 4, 5) is image
