import pytest
import torch
from detectron2.data.transforms import ResizeShortestEdge

from maftp.blocks import Augmentation
from maftp.errors import ParamsError
from maftp.evaluation.augmentation import Augmented
from maftp.evaluation.runner import evaluate


class Recorder:
    """Scores that depend on the version: its mean grey, and the column of every pixel."""

    def __init__(self):
        self.seen = []

    def __call__(self, batch):
        (item,) = batch
        self.seen.append(item)
        columns = torch.arange(float(item["width"])).expand(item["height"], -1)
        return [{"sem_seg": torch.stack([columns, 10 * columns]), "panoptic_seg": None}]


@pytest.fixture
def item():
    image = torch.arange(40 * 60).reshape(1, 40, 60).repeat(3, 1, 1) % 251
    return {"image": image.byte(), "height": 20, "width": 30, "file_name": "a.png"}


def test_versions_are_ordered_size_by_size_plain_before_flipped(item):
    model = Recorder()
    (result,) = Augmented(model, short_sides=(32, 64), max_side=80, flip=True)([item])
    shapes = [tuple(seen["image"].shape[1:]) for seen in model.seen]
    # 40 x 60 at a shorter side of 64 would be 96 wide: cut to 80, so 53.33 high
    assert shapes == [(32, 48), (32, 48), (53, 80), (53, 80)]
    for plain, flipped in zip(model.seen[::2], model.seen[1::2], strict=True):
        assert torch.equal(plain["image"].flip(-1), flipped["image"])
    assert all((seen["height"], seen["width"]) == (20, 30) for seen in model.seen)
    assert set(result) == {"sem_seg"}


def test_scores_are_flipped_back_and_averaged(item):
    (result,) = Augmented(Recorder(), short_sides=(32, 64), max_side=80, flip=True)([item])
    # columns x and, flipped back, 29 - x: every mean is 29 / 2
    assert torch.allclose(result["sem_seg"][0], torch.full((20, 30), 14.5))
    assert torch.allclose(result["sem_seg"][1], torch.full((20, 30), 145.0))


def test_without_flips_the_plain_versions_are_averaged(item):
    model = Recorder()
    (result,) = Augmented(model, short_sides=(32,), max_side=80, flip=False)([item])
    assert len(model.seen) == 1
    assert torch.equal(result["sem_seg"][0, 0], torch.arange(30.0))
    pixels = item["image"].permute(1, 2, 0).numpy()
    resized = ResizeShortestEdge(32, 80).get_transform(pixels).apply_image(pixels)
    assert torch.equal(model.seen[0]["image"], torch.from_numpy(resized.copy()).permute(2, 0, 1))


def changed(params, variant, **evaluate_keys):
    chosen = params.for_variant(variant)
    block = chosen.evaluate.model_copy(update=evaluate_keys)
    return chosen.model_copy(update={"evaluate": block})


AUGMENTATION = Augmentation(short_sides=(32, 64), max_side=128, flip=True)


def test_an_evaluation_can_be_augmented(params, weights, catalog, root, tmp_path):
    common = {
        "variant": "maftp", "seed": 0, "benchmark": "A-150", "weights": weights("maftp"),
        "catalog": catalog, "root": root, "device": "cpu",
    }  # fmt: skip
    plain = evaluate(params.for_variant("maftp"), out=tmp_path / "plain.json", **common)
    chosen = changed(params, "maftp", augmentation=AUGMENTATION)
    result = evaluate(chosen, out=tmp_path / "tta.json", **common)
    assert plain["augmentation"] is None
    assert result["augmentation"] == {"short_sides": [32, 64], "max_side": 128, "flip": True}
    assert result["scores"]["images"] == plain["scores"]["images"] == 2


def test_panoptic_benchmarks_refuse_augmentation(params, weights, catalog, root, tmp_path):
    with pytest.raises(ParamsError, match="evaluate.augmentation: gives semantic scores only"):
        evaluate(
            changed(params, "maftp", augmentation=AUGMENTATION),
            variant="maftp",
            seed=0,
            benchmark="ADE-panoptic",
            weights=weights("maftp"),
            catalog=catalog,
            root=root,
            out=tmp_path / "a.json",
            device="cpu",
        )
    assert not (tmp_path / "a.json").exists()
