"""MaskCLIP++ with ConvNeXt-Base over the masks of MAFTP-Base, against the public code."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor

from maftp.modeling import maskclippp
from maftp.modeling.build import build_model
from maftp.modeling.content_dependent_transfer import dense_tokens
from tests.parity import cases
from tests.parity.weights import named_tensor

pytestmark = pytest.mark.slow
DECODER = "sem_seg_head.predictor."


def fixture_tensor(name: str, tensor: Tensor) -> Tensor:
    """Values under which the proposals' masks differ (README of the fixtures)."""
    value = named_tensor(name, tensor)
    if name == DECODER + "logit_scale":
        return torch.full_like(tensor, math.log(1 / 0.07))
    if name.startswith(DECODER) and name.endswith(("query_feat.weight", "query_embed.weight")):
        return 16 * value
    damped = ("out_proj.weight", "linear2.weight")
    if name.startswith(DECODER + "transformer_") and name.endswith(damped):
        return 0.1 * value
    return value


@pytest.fixture(scope="module")
def fixture():
    return cases.read("maskclippp_base_eval")


@pytest.fixture(scope="module")
def settings(fixture):
    return json.loads(str(fixture["settings"]))


@pytest.fixture(scope="module")
def model(fixture, settings):
    own = {
        "student_short_side": settings["student_short"],
        "proposal_short_side": settings["generator_short"],
        "attention_dropout": 0.0,
    }
    evaluate = {
        "object_threshold": settings["plain_object_threshold"],
        "overlap_threshold": settings["plain_overlap_threshold"],
    }
    clip = {"stochastic_depth": False}
    params = cases.params_of("maskclippp_base", evaluate=evaluate, clip=clip)
    values = params.model.model_dump() | {"maskclippp": own}
    params = params.model_copy(update={"model": type(params.model).model_validate(values)})
    assert (params.model.ensemble_alpha, params.model.ensemble_beta) == (
        settings["alpha"],
        settings["beta"],
    )
    model = build_model(params, num_training_classes=5, load_clip=None, teacher=False)
    cases.fill(model, fixture_tensor)
    model.set_training_vocabulary(fixture["train_classes"].tolist())
    model.set_test_vocabulary(fixture["classes"].tolist())
    return model


class Watched:
    """Intermediate values of a pass, by the names of the fixture."""

    def __init__(self, model, monkeypatch) -> None:
        self.values: dict[str, Tensor] = {}
        for name in ("_see", "_compare", "_scores", "name_masks"):
            monkeypatch.setattr(model, name, self._watch(name, getattr(model, name)))

    def _watch(self, name, function):
        def call(*arguments):
            found = function(*arguments)
            self.values[name] = found
            self.values[name + " arguments"] = arguments
            return found

        return call


def run(model, fixture, monkeypatch) -> tuple[dict[str, Tensor], list[dict]]:
    watched = Watched(model, monkeypatch)
    with torch.no_grad():
        results = model.eval()(cases.images(fixture))
    values = watched.values
    masks, proposing, student, *_ = values["name_masks arguments"]
    dense, weights, text = values["_compare arguments"]
    found = {
        "generator_canvas": proposing.tensor.shape[-2:],
        "student_canvas": student.tensor.shape[-2:],
        "generator_sizes": proposing.image_sizes,
        "student_sizes": student.image_sizes,
        "generator_logits": values["_scores arguments"][0],
        "generator_masks": masks,
        "student_masks": weights,
        "mask_embeddings": model.visual_encoder.visual_head(
            maskclippp.soft_pool(dense, weights, floor=1e-6)
        ),
        "dense_embeddings": values["_see"][1].transpose(1, 2).unflatten(2, dense.shape[-2:]),
        "adapted_text": text,
        "synonym_logits": values["_compare"],
        "logits": values["name_masks"],
        "scores": values["_scores"],
    }
    return found, results


TOLERANCES = {
    "generator_logits": 2e-3, "generator_masks": 5e-3, "student_masks": 2e-3,
    "mask_embeddings": 1e-3, "dense_embeddings": 2e-4, "adapted_text": 2e-4,
    "synonym_logits": 1e-3, "logits": 1e-3, "scores": 1e-3,
}  # fmt: skip


def test_every_step_of_a_pass(fixture, model, monkeypatch):
    text = model.text_embeddings(tuple(fixture["classes"].tolist()))
    assert cases.difference(text.weight, fixture["generator_text"]) < 2e-4
    assert list(text.num_synonyms) == fixture["num_synonyms"].tolist()
    assert model.seen().tolist() == fixture["seen"].tolist()
    found, results = run(model, fixture, monkeypatch)
    for name in ("generator_canvas", "student_canvas"):
        assert list(found[name]) == fixture[name].tolist()
    for name in ("generator_sizes", "student_sizes"):
        assert [list(size) for size in found[name]] == fixture[name].tolist()
    for index in range(2):
        for name, tolerance in TOLERANCES.items():
            expected = fixture[f"{name}_{index}"]
            value = found[name][index][: len(expected)]
            assert cases.difference(value, expected) < tolerance, name
        semantic = results[index]["sem_seg"]
        assert cases.difference(semantic, fixture[f"sem_seg_{index}"]) < 2e-4


def test_panoptic_and_instances(fixture, settings, model, monkeypatch):
    """The second pass: no ensemble, masks resized first."""
    monkeypatch.setattr(model, "alpha", None)
    monkeypatch.setattr(model, "panoptic_on", True)
    monkeypatch.setattr(model, "instance_on", True)
    monkeypatch.setattr(model, "things", frozenset(fixture["things"].tolist()))
    found, results = run(model, fixture, monkeypatch)
    for index, result in enumerate(results):
        expected = fixture[f"plain_scores_{index}"]
        assert cases.difference(found["scores"][index], expected) < 1e-3
        assert cases.difference(result["sem_seg"], fixture[f"plain_sem_seg_{index}"]) < 2e-4
        ids, segments = result["panoptic_seg"]
        assert segments == json.loads(str(fixture[f"segments_{index}"]))
        assert (ids.numpy() == fixture[f"panoptic_{index}"]).mean() >= 0.999
        instances = result["instances"]
        for name, value, tolerance in (
            ("scores", instances.scores, 1e-3),
            ("classes", instances.pred_classes, 0),
            ("areas", instances.pred_masks.flatten(1).sum(1), 0.05),
        ):
            expected = sorted(fixture[f"instance_{name}_{index}"].tolist())
            assert sorted(value.tolist()) == pytest.approx(expected, rel=tolerance), name


def binarise(model, monkeypatch):
    whole = maskclippp.student_masks
    monkeypatch.setattr(
        maskclippp, "student_masks", lambda *a: ((m > 0.5).float() for m in whole(*a))
    )


def rechunk(model, monkeypatch):
    released = lambda dense, order: dense_tokens(dense, order="released")  # noqa: E731
    monkeypatch.setattr(maskclippp, "dense_tokens", released)


def leave_out_psm(model, monkeypatch):
    plain = lambda text, tokens: text.expand(len(tokens), -1, -1)  # noqa: E731
    monkeypatch.setattr(model.psm, "forward", plain)


def text_of_the_other_image(model, monkeypatch):
    psm = model.psm.forward
    monkeypatch.setattr(model.psm, "forward", lambda *a: psm(*a).flip(0))


@pytest.mark.parametrize("change", [binarise, rechunk, leave_out_psm, text_of_the_other_image])
def test_a_wrong_step_is_noticed(fixture, model, change, monkeypatch):
    change(model, monkeypatch)
    found, results = run(model, fixture, monkeypatch)
    assert cases.difference(found["logits"][0], fixture["logits_0"]) > 5e-3
    assert cases.difference(results[0]["sem_seg"], fixture["sem_seg_0"]) > 4e-4


def test_swapped_flags_are_noticed(fixture, model, monkeypatch):
    swapped = torch.from_numpy(~fixture["seen"])
    monkeypatch.setattr(model, "seen", lambda: swapped)
    with torch.no_grad():
        results = model.eval()(cases.images(fixture))
    assert cases.difference(results[0]["sem_seg"], fixture["sem_seg_0"]) > 1e-2


def test_loss_and_gradients(model, monkeypatch):
    fixture = cases.read("maskclippp_base_train")
    model.set_training_vocabulary(fixture["train_classes"].tolist())
    choice = torch.from_numpy(fixture["synonym_choice"])
    monkeypatch.setattr(
        maskclippp, "draw_synonyms", lambda rows: rows.gather(1, choice[:, None])[:, 0]
    )
    watched = []
    compare = model._compare
    monkeypatch.setattr(
        model, "_compare", lambda *a: watched.append(compare(*a)[0]) or watched[-1][None]
    )
    losses = model.train()(cases.batch(fixture))
    assert cases.difference(torch.cat(watched).detach(), fixture["logits"]) < 1e-3
    assert {n: loss.item() for n, loss in losses.items()} == pytest.approx(
        {"loss_ce": float(fixture["loss"])}, rel=2e-4
    )
    losses["loss_ce"].backward()
    cases.check_gradients(model, fixture["grad_norms"], 350)
