import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from maftp.api import experiment_params
from maftp.errors import CheckpointError, ParamsError
from maftp.modeling.build import build_model, load_model
from maftp.modeling.checkpoint import load_weights
from maftp.modeling.maskclippp import ImageConditionedText, draw_synonyms, shorter_side_to
from maftp.modeling.proposals import load_proposals
from maftp.modeling.released_weights import convert_released
from maftp.training.checkpoint import save_weights
from maftp.training.optimizer import build_optimizer

KEYS = Path(__file__).resolve().parents[2].parent / "shared" / "spec" / "keys"
TRAIN = ["person, child", "car", "sky"]
TEST = ["wall", "dog,puppy", "sky, heaven"]


@pytest.fixture
def proposing(build, tmp_path):
    """Weights of a MAFT+ that was trained on two classes."""
    model = build("maftp", classes=2, train={"rc_weight": 0.0}, teacher=False)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.01)
    model.set_training_vocabulary(["wall", "tree"])
    save_weights(tmp_path / "proposing.safetensors", model, {})
    return tmp_path / "proposing.safetensors"


@pytest.fixture
def model(build, proposing):
    model = build("maskclippp", teacher=False)
    load_proposals(model, proposing)
    model.set_training_vocabulary(TRAIN)
    model.set_test_vocabulary(TEST)
    return model


def test_all_that_is_trained_gets_a_gradient(model, batch):
    losses = model.train()(batch)
    assert list(losses) == ["loss_ce"]
    losses["loss_ce"].backward()
    with_gradient = {n for n, p in model.named_parameters() if p.grad is not None}
    assert with_gradient == set(model.trainable_names())
    assert {name.split(".")[0] for name in with_gradient} == {"visual_encoder", "psm"}
    groups = model.parameter_groups()
    assert {name.split(".")[0] for name, _ in groups["backbone"]} == {"visual_encoder"}


def test_a_batch_without_masks_trains_nothing_and_breaks_nothing(model, batch):
    for item in batch:
        item["instances"] = item["instances"][:0]
    loss = model.train()(batch)["loss_ce"]
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_proposals_are_taken_and_the_student_is_not(build, proposing):
    model = build("maskclippp", teacher=False)
    student = {n: t.clone() for n, t in model.visual_encoder.state_dict().items()}
    text = model.backbone.text_digest()
    load_proposals(model, proposing)
    expected, own = load_file(proposing), model.state_dict()
    taken = [n for n in own if n.startswith(("backbone.clip_model.visual.", "sem_seg_head."))]
    assert all(torch.equal(own[name], expected[name]) for name in taken)
    assert all(torch.equal(t, student[n]) for n, t in model.visual_encoder.state_dict().items())
    assert model.backbone.text_digest() == text
    assert model.proposal_names == ("wall", "tree")


def test_seen_are_the_classes_of_whoever_trained_the_proposals(model, tiny_params, tmp_path):
    assert model.seen().tolist() == [True, False, False]
    save_weights(tmp_path / "own.safetensors", model, {})
    loaded = load_model(tiny_params.for_variant("maskclippp"), tmp_path / "own.safetensors")
    loaded.set_training_vocabulary(TRAIN)  # as an evaluation does
    loaded.set_test_vocabulary(TEST)
    assert loaded.seen().tolist() == [True, False, False]


def test_other_weights_are_no_proposals(build, proposing, tmp_path):
    state = {n: t for n, t in load_file(proposing).items() if "pixel_decoder" not in n}
    torch.save(state, tmp_path / "half.pth")
    with pytest.raises(CheckpointError, match=r"half\.pth: .* fit the proposing part .*missing"):
        load_proposals(build("maskclippp", teacher=False), tmp_path / "half.pth")


def test_results_and_labels_agree(model, batch):
    for item in batch:
        item["height"], item["width"] = 70, 90
    with torch.no_grad():
        results = model.eval()(batch)
        model.semantic_output = "labels"
        labels = model(batch)
    for result, found in zip(results, labels, strict=True):
        assert result["sem_seg"].shape == (3, 70, 90)
        assert (result["sem_seg"].argmax(0) == found["labels"]).float().mean() > 0.99


def test_outputs_have_the_size_of_the_input_unless_asked_otherwise(model, batch):
    with torch.no_grad():
        results = model.eval()(batch)
    assert [tuple(r["sem_seg"].shape[1:]) for r in results] == [(128, 160), (96, 128)]


@pytest.mark.parametrize(
    ("size", "short", "resized"),
    [((96, 128), 160, (160, 213)), ((683, 512), 512, (683, 512)), ((1366, 1024), 800, (1067, 800))],
)
def test_sizes_are_cut_not_rounded(size, short, resized):
    assert shorter_side_to(size, short) == resized


def test_one_synonym_per_class_is_drawn():
    rows = torch.tensor([[0, 0, 0], [1, 2, 3], [4, 5, 5]])
    torch.manual_seed(0)
    drawn = torch.stack([draw_synonyms(rows) for _ in range(200)])
    assert drawn[:, 0].unique().tolist() == [0]
    assert drawn[:, 1].unique().tolist() == [1, 2, 3]
    assert drawn[:, 2].unique(return_counts=True)[1].min() > 70  # evenly, not by repeated rows


def test_text_sees_all_tokens_in_any_order():
    torch.manual_seed(0)
    psm = ImageConditionedText(embed_dim=16, num_heads=2, dropout=0.0).eval()
    text, tokens = torch.randn(3, 16), torch.randn(1, 5, 16)
    found = psm(text, tokens)
    assert torch.allclose(found, psm(text, tokens[:, [4, 2, 0, 1, 3]]), atol=1e-6)
    padded = torch.cat([tokens, torch.randn(1, 1, 1).expand(1, 2, 16)], dim=1)
    assert not torch.allclose(found, psm(text, padded), atol=1e-4)


@pytest.mark.skipif(not KEYS.is_dir(), reason="lists of released entries are not here")
@pytest.mark.parametrize("size", ["base", "large"])
def test_entries_and_optimizer_of_the_released_checkpoint(size):
    params = experiment_params(f"maskclippp_{size}" + ("_panoptic" if size == "large" else ""))
    with torch.device("meta"):
        model = build_model(params, num_training_classes=171, load_clip=None, teacher=False)
    released = json.loads((KEYS / f"maskclippp_{size}.json").read_text())
    own = {n: list(t.shape) for n, t in model.state_dict().items()}
    assert {n: s for n, s in own.items() if n.startswith(model.released_parts)} == released
    names = {id(p): n for n, p in model.named_parameters()}
    groups = build_optimizer(model, model.parameter_groups(), params=params).param_groups
    found = {names[id(p)]: (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    expected = json.loads((KEYS / f"optimizer_maskclippp_{size}.json").read_text())
    assert set(found) == set(expected)
    for name, rule in expected.items():
        assert found[name] == pytest.approx((rule["lr"], rule["weight_decay"])), name


def test_released_form(model, build, proposing, tiny_params, tmp_path):
    """The file holds what was trained; the rest comes from the CLIP and from the proposals."""
    whole = model.state_dict()
    state = {n: t + 1 for n, t in whole.items() if n.startswith(model.released_parts)}
    torch.save({"model": state, "iteration": 20000}, tmp_path / "student.pth")
    clip = {
        n.removeprefix("backbone.clip_model."): t
        for n, t in whole.items()
        if n.startswith("backbone.clip_model.")
    }
    torch.save(clip, tmp_path / "clip.pth")
    params, out = tiny_params.for_variant("maskclippp"), tmp_path / "out.safetensors"
    common = {"name": "maskclippp_b", "num_training_classes": 3}
    convert_released(
        params, tmp_path / "student.pth", out,
        clip=tmp_path / "clip.pth", proposals=proposing, **common,
    )  # fmt: skip
    loaded = build("maskclippp", teacher=False)
    load_weights(loaded, out)
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, state.get(name, whole[name])), name
    with pytest.raises(ParamsError, match="holds the trained part alone"):
        convert_released(params, tmp_path / "student.pth", out, **common)
    del state["psm.ln_1.bias"]
    torch.save({"model": state}, tmp_path / "less.pth")
    with pytest.raises(CheckpointError, match=r"1 missing: psm\.ln_1\.bias"):
        convert_released(
            params, tmp_path / "less.pth", out,
            clip=tmp_path / "clip.pth", proposals=proposing, **common,
        )  # fmt: skip
