"""The Python interface, on a tiny model and on the parameter files of the repository."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml

import maftp
from maftp.api import EXPERIMENTS, experiment_params
from maftp.errors import CheckpointError, DataError, MaftpError, ParamsError
from maftp.modeling.build import build_model
from maftp.training.checkpoint import save_weights
from tests.conftest import TINY_CLIP


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """A parameter file that holds only what differs, with weights of both variants beside it."""
    folder = tmp_path_factory.mktemp("api")
    (folder / "maftp_tiny_api.json").write_text(json.dumps(TINY_CLIP))
    overlay = {
        "experiment": "tiny",
        "clip": {
            "model": "maftp_tiny_api",
            "config": str(folder / "maftp_tiny_api.json"),
            "pretrained": str(folder / "clip.safetensors"),
        },
        "model": {"num_queries": 6, "hidden_dim": 32, "cdt": {"num_heads": 4}},
        "train": {"num_points": 64},
        "variants": {"maftp": {}, "fcclip": {"model": {"name": "fcclip"}}},
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(overlay, sort_keys=False))
    for variant in ("maftp", "fcclip"):
        params = experiment_params(f"{path}:{variant}")
        model = build_model(
            params, num_training_classes=2, load_clip=None, teacher=variant == "maftp"
        )
        model.set_training_vocabulary(["sky", "car, taxi"])
        save_weights(folder / f"{variant}.safetensors", model, {})
        if variant == "maftp":
            torch.save({"model": model.state_dict()}, folder / "released.pth")
    return path


@pytest.fixture(scope="module")
def model(experiment):
    return maftp.load_model(experiment, experiment.parent / "maftp.safetensors")


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)


def test_import_loads_no_torch():
    code = "import maftp, sys; assert 'torch' not in sys.modules; print(maftp.__version__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == maftp.__version__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        maftp.nothing  # noqa: B018


def test_segment(model, image):
    found = maftp.segment(model, image, ["sky", "dog, puppy", "wall"], short_side=64, max_side=128)
    assert found.semantic.shape == (3, 60, 90)
    assert found.semantic.dtype == np.float32
    assert np.array_equal(found.labels, found.semantic.argmax(0))
    assert found.panoptic is None
    assert found.segments is None


def test_segment_at_the_image_s_own_size_is_the_model_s_output(model, image):
    names = ["sky", "dog, puppy"]
    found = maftp.segment(model, image, names, short_side=None)
    model.set_test_vocabulary(names)
    with torch.no_grad():
        expected = model([{"image": torch.from_numpy(image).permute(2, 0, 1)}])[0]["sem_seg"]
    assert np.array_equal(found.semantic, expected.numpy())


def test_segment_panoptic(model, image):
    found = maftp.segment(
        model, image, ["sky", "dog, puppy"], short_side=None, panoptic=True, things=["dog, puppy"]
    )
    assert found.panoptic.shape == (60, 90)
    assert all(set(segment) == {"id", "isthing", "category_id"} for segment in found.segments)
    by_index = maftp.segment(
        model, image, ["sky", "dog, puppy"], short_side=None, panoptic=True, things=[1]
    )
    assert by_index.segments == found.segments
    assert not model.panoptic_on


def test_segment_refuses_wrong_input(model, image):
    with pytest.raises(DataError, match=r"expected \(H, W, 3\) uint8"):
        maftp.segment(model, image.astype(np.float32), ["sky"])
    with pytest.raises(DataError, match="'cat' is not in the vocabulary"):
        maftp.segment(model, image, ["sky"], things=["cat"])
    with pytest.raises(DataError, match="vocabulary is empty"):
        maftp.segment(model, image, [], short_side=None)


def test_own_baseline_knows_its_training_classes(experiment, image):
    model = maftp.load_model(f"{experiment}:fcclip", experiment.parent / "fcclip.safetensors")
    assert type(model).__name__ == "FCCLIP"
    assert model.training_names == ("sky", "car, taxi")
    assert maftp.segment(model, image, ["taxi", "dog"], short_side=None).labels.shape == (60, 90)


def test_loaded_model_can_be_trained_with_the_checkpoint_s_teacher(experiment):
    model = maftp.load_model(experiment, experiment.parent / "released.pth")
    assert not model.training
    assert not any(name.startswith("backbone_t.") for name in model.state_dict())
    model.train()
    trunk = "clip_model.visual.trunk.stem.0.weight"
    released = torch.load(experiment.parent / "released.pth")["model"]
    assert torch.equal(model.state_dict()[f"backbone_t.{trunk}"], released[f"backbone_t.{trunk}"])


def test_weights_of_another_variant(experiment):
    with pytest.raises(CheckpointError, match="fcclip.safetensors"):
        maftp.load_model(experiment, experiment.parent / "fcclip.safetensors")


def test_pretrained_clip_is_not_touched_with_weights_and_needed_without(experiment):
    with pytest.raises(MaftpError, match="clip.safetensors: no such CLIP weight file"):
        maftp.load_model(experiment)


@pytest.mark.parametrize(
    ("name", "architecture", "form", "weights"),
    [
        ("miniature", "maftp", "semantic", (20.0, 0.1)),
        ("miniature:fcclip", "fcclip", "semantic", (20.0, 0.1)),
        ("maftp_base", "maftp", "semantic", (1.0, 0.1)),
        ("maftp_large", "maftp", "semantic", (1.0, 0.1)),
        ("maftp_large_panoptic", "maftp", "panoptic", (1.0, 0.1)),
        ("fcclip_base", "fcclip", "semantic", (0.0, 0.0)),
        ("fcclip_large", "fcclip", "semantic", (0.0, 0.0)),
    ],
)
def test_experiments_of_the_repository(name, architecture, form, weights):
    params = experiment_params(name)
    assert params.experiment == name.split(":")[0]
    assert params.model.name == architecture
    assert params.model.cdt.form == form
    assert (params.train.mask_aware_weight, params.train.rc_weight) == weights


@pytest.mark.parametrize("name", ["maftp_base", "maftp_large", "maftp_large_panoptic"])
def test_published_recipe(name):
    params = experiment_params(name)
    train, model = params.train, params.model
    assert train.iterations == (60000 if name == "maftp_base" else 55000)
    assert (train.batch_size, params.execution.workers, train.num_points) == (8, 8, 12544)
    assert (train.learning_rate, train.backbone_multiplier) == (1e-4, 0.1)
    assert (train.weight_decay, train.power, train.clip_gradients) == (2e-5, 0.9, 0.01)
    assert (train.class_weight, train.mask_weight, train.dice_weight) == (2.0, 5.0, 5.0)
    assert (train.no_object_weight, train.amp) == (0.1, True)
    assert (train.oversample_ratio, train.importance_sample_ratio) == (3.0, 0.75)
    assert (model.num_queries, model.hidden_dim, model.num_heads) == (100, 256, 8)
    assert (model.encoder_layers, model.decoder_layers) == (6, 9)
    assert (model.encoder_feedforward, model.decoder_feedforward) == (1024, 2048)
    assert (model.num_points, model.cdt.num_heads, model.cdt.tokens) == (4, 8, "released")
    assert (params.input.test.short_side, params.input.test.max_side) == (800, 1333)
    assert (params.evaluate.object_threshold, params.evaluate.overlap_threshold) == (0.2, 0.7)
    assert params.clip.templates == 14
    assert not params.clip.stochastic_depth
    assert params.seeds == (123,)


def test_unknown_experiments():
    with pytest.raises(ParamsError, match="known: miniature, fcclip_base"):
        experiment_params("no_such_experiment")
    with pytest.raises(ParamsError, match="variant 'nope'"):
        experiment_params("miniature:nope")


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.yaml")), ids=lambda path: path.stem)
def test_published_experiments_use_official_data(path):
    params = experiment_params(path.stem)
    assert params.experiment == path.stem
    assert params.data.root is None
    assert params.data.catalog is None
    assert params.data.world is None
    assert params.clip.config is None


def test_text_alone_is_one_class_and_not_its_letters(model, image):
    found = maftp.segment(model, image, "sky", short_side=64, max_side=128)
    assert found.semantic.shape == (1, 60, 90)
    expected = maftp.segment(model, image, ["sky"], short_side=64, max_side=128)
    assert np.array_equal(found.semantic, expected.semantic)


@pytest.mark.parametrize("vocabulary", [[], "", [""], [" , "], ["sky", None], [3], [b"sky"]])
def test_what_is_no_vocabulary(vocabulary, model, image):
    with pytest.raises(DataError, match="vocabulary(: | is empty)"):
        maftp.segment(model, image, vocabulary)


@pytest.mark.parametrize("size", [(1, 1), (2, 1280), (1280, 2)])
def test_the_thinnest_images(size, model):
    found = maftp.segment(model, np.zeros((*size, 3), np.uint8), ["sky", "wall"], short_side=64,
                          max_side=128, panoptic=True)  # fmt: skip
    assert found.labels.shape == found.panoptic.shape == size
    with pytest.raises(DataError, match="0 x 5 pixels"):
        maftp.segment(model, np.zeros((0, 5, 3), np.uint8), ["sky"])


@pytest.mark.parametrize(
    "options",
    [{"things": [2]}, {"things": [-1]}, {"short_side": 0}, {"max_side": 0}, {"short_side": -5}],
)
def test_numbers_out_of_range(options, model, image):
    with pytest.raises(DataError, match="class|pixel"):
        maftp.segment(model, image, ["sky", "wall"], panoptic=True, **options)
