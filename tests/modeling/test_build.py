import json
from pathlib import Path

import pytest
import torch
import yaml

from maftp.api import experiment_params
from maftp.data.catalog import load_catalog
from maftp.errors import ParamsError
from maftp.modeling.build import build_model, check_training_width

KEYS = Path(__file__).resolve().parents[2].parent / "shared" / "spec" / "keys"
VARIANTS = [
    ("maftp_base", "maftp_base_semantic", 171),
    ("maftp_large", "maftp_large_semantic", 171),
    ("maftp_large_panoptic", "maftp_large_panoptic", 133),
]


@pytest.mark.skipif(not KEYS.is_dir(), reason="lists of released entries are not here")
@pytest.mark.parametrize(("experiment", "keys", "classes"), VARIANTS)
def test_entries_of_released_checkpoints(experiment, keys, classes):
    with torch.device("meta"):
        model = build_model(
            experiment_params(experiment),
            num_training_classes=classes,
            load_clip=None,
            teacher=True,
            whole_teacher=True,
        )
    released = json.loads((KEYS / f"{keys}.json").read_text())
    built = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    assert built == released
    trainable = json.loads((KEYS / f"trainable_{keys}.json").read_text())
    assert sorted(model.trainable_names()) == sorted(trainable)
    groups = model.parameter_groups()
    assert len(groups["backbone"]) == 340
    assert len(groups["head"]) == 310


@pytest.mark.parametrize(
    ("experiment", "total", "trainable"),
    [("maftp_base", 381.189, 109.983), ("maftp_large", 727.145, 219.827)],
)
def test_numbers_of_parameters(experiment, total, trainable):
    with torch.device("meta"):
        model = build_model(
            experiment_params(experiment),
            num_training_classes=171,
            load_clip=None,
            teacher=True,
            whole_teacher=True,
        )
    count = sum(tensor.numel() for tensor in model.state_dict().values())
    assert count / 1e6 == pytest.approx(total, abs=1e-3)
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert count / 1e6 == pytest.approx(trainable, abs=1e-3)


@pytest.mark.parametrize(
    ("update", "width"),
    [
        ({"mapper": "semantic", "short_side": 96}, 96),
        ({"mapper": "semantic", "short_side": 300, "max_side": 90}, 96),
        ({"mapper": "panoptic", "crop_size": 64}, 64),
    ],
)
def test_training_images_too_narrow_for_compensation(tiny_params, update, width):
    train = tiny_params.input.train.model_copy(update=update)
    inputs = tiny_params.input.model_copy(update={"train": train})
    params = tiny_params.model_copy(update={"input": inputs})
    with pytest.raises(ParamsError, match=f"can be {width} pixels wide.* needs 128"):
        check_training_width(params)
    with pytest.raises(ParamsError, match="set train.rc_weight to 0"):
        build_model(params, num_training_classes=3, load_clip=None, teacher=True)


def test_padding_counts_for_the_width(tiny_params):
    train = tiny_params.input.train.model_copy(update={"short_side": 97})  # padded to 128
    inputs = tiny_params.input.model_copy(update={"train": train})
    check_training_width(tiny_params.model_copy(update={"input": inputs}))


@pytest.mark.parametrize(
    ("ensemble", "weights"),
    [("geometric", (0.4, 0.8)), ("head", (0.0, 0.0)), ("clip", (1.0, 1.0))],
)
def test_the_baseline_s_ensemble_can_be_switched_off(build, ensemble, weights):
    model = build("fcclip", model={"ensemble": ensemble})
    assert (model.alpha, model.beta) == weights


def test_own_panoptic_data_give_panoptic_output(tmp_path):
    """What the training set is, its catalog entry says, wherever the entry stands."""
    own = tmp_path / "own.yaml"
    entry = load_catalog().dataset("coco_panoptic_val").model_dump(mode="json")
    entry["splits"]["val"]["name"] = "own_street_val"
    own.write_text(yaml.safe_dump({"datasets": {"street": entry}}))
    (tmp_path / "mine.yaml").write_text(f"data: {{own: {own}, train: street, world: null}}")
    params = experiment_params(tmp_path / "mine.yaml")
    options = {"num_training_classes": 2, "load_clip": None, "teacher": False}
    with torch.device("meta"):
        assert build_model(params, **options).panoptic_on
        own.unlink()  # the weights are used elsewhere
        assert not build_model(params, **options).panoptic_on
