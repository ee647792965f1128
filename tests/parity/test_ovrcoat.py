"""OVRCOAT against the public code: COAT's rule, a whole pass, losses and gradients."""

from __future__ import annotations

import json

import pytest
import torch

from maftp.modeling.build import build_model
from maftp.modeling.mask_classification import geometric_ensemble
from maftp.modeling.postprocessing import (
    instance_inference,
    panoptic_inference,
    semantic_inference,
)
from tests.parity import cases
from tests.parity.weights import fixed_rand

TOLERANCE = 5e-4  # an independent implementation in float32 reached 3e-6


@pytest.fixture(scope="module")
def fixture():
    return cases.read("ovrcoat_eval")


def rule(fixture, trust_weight: float) -> torch.Tensor:
    return geometric_ensemble(
        torch.from_numpy(fixture["rule_head_logits"]),
        # the rule's input are probabilities; a logit of void that nothing reads is put behind
        torch.nn.functional.pad(torch.from_numpy(fixture["rule_clip_probs"]).log(), (0, 1)),
        torch.from_numpy(fixture["seen"]).bool(),
        alpha=float(fixture["alpha"]),
        beta=float(fixture["beta"]),
        trust_weight=trust_weight,
    )


def test_rule_of_coat(fixture):
    found = rule(fixture, float(fixture["trust_weight"]))
    assert cases.difference(found, fixture["rule_log_probs"]) < 1e-6
    assert (found[0].argmax(-1) == 7).sum() == 12
    without = rule(fixture, 0.0)
    assert cases.difference(without, fixture["rule_log_probs"]) > TOLERANCE
    assert (without[0].argmax(-1) == 7).sum() == 15


def test_postprocessing_of_the_rule(fixture):
    scores, masks = torch.from_numpy(fixture["rule_log_probs"])[0], fixture["rule_masks"]
    masks, things = torch.from_numpy(masks), fixture["things"].tolist()
    assert cases.difference(semantic_inference(scores, masks), fixture["rule_sem_seg"]) < TOLERANCE
    result = panoptic_inference(
        scores,
        masks,
        things,
        object_threshold=float(fixture["object_threshold"]),
        overlap_threshold=float(fixture["rule_overlap_threshold"]),
    )
    renamed = {f"{name}_0": fixture[f"rule_{name}"] for name in ("segments", "panoptic")}
    cases.check_panoptic({"panoptic_seg": result}, renamed, 0, share=1.0)
    instances = instance_inference(scores, masks, things, quality="logit")
    cases.check_instances(instances, fixture["rule_instances"])
    with pytest.raises(AssertionError):
        cases.check_instances(instance_inference(scores, masks, things), fixture["rule_instances"])


@pytest.fixture(scope="module")
def model(fixture):
    trained = cases.read("ovrcoat_train")
    params = cases.params_of(
        "ovrcoat_large_panoptic",
        train={"num_points": int(trained["points"])},
        evaluate={"overlap_threshold": float(fixture["overlap_threshold"])},
    )
    assert params.clip.model == str(fixture["clip_model"])
    assert params.model.num_queries == fixture["queries"]
    names = fixture["train_classes"].tolist()
    model = build_model(params, num_training_classes=len(names), load_clip=None, teacher=False)
    cases.fill(model)
    assert (model.alpha, model.beta) == (fixture["alpha"], fixture["beta"])
    assert model.trust_weight == fixture["trust_weight"]
    model.set_training_vocabulary(names)
    model.set_test_vocabulary(fixture["classes"].tolist(), things=fixture["things"].tolist())
    return model


@pytest.mark.slow
def test_a_whole_pass(fixture, model):
    assert model.seen().tolist() == fixture["seen"].astype(bool).tolist()
    with torch.no_grad():
        results = model.eval()(cases.images(fixture))
    for index, result in enumerate(results):
        assert cases.difference(result["sem_seg"], fixture[f"sem_seg_{index}"]) < TOLERANCE
        cases.check_panoptic(result, fixture, index, share=0.999)


@pytest.mark.slow
@pytest.mark.parametrize("switch", ["lambda", "seen"])
def test_a_wrong_pass_is_noticed(fixture, model, switch, monkeypatch):
    if switch == "lambda":
        monkeypatch.setattr(model, "trust_weight", 0.0)
    else:
        swapped = torch.from_numpy(~fixture["seen"].astype(bool))
        monkeypatch.setattr(model, "seen", lambda: swapped)
    with torch.no_grad():
        found = model.eval()(cases.images(fixture))[0]["sem_seg"]
    assert cases.difference(found, fixture["sem_seg_0"]) > 2 * TOLERANCE


@pytest.mark.slow
def test_losses_and_gradients(model, monkeypatch):
    fixture = cases.read("ovrcoat_train")
    model.set_training_vocabulary(fixture["train_classes"].tolist())
    monkeypatch.setattr(torch, "rand", fixed_rand)
    losses = model.train()(cases.batch(fixture))
    expected = json.loads(str(fixture["losses"]))
    assert len(expected) == 31
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(expected, rel=2e-4)
    sum(losses.values()).backward(retain_graph=True)
    cases.check_gradients(model, fixture["grad_norms"], 643)
    model.zero_grad()
    losses["loss_oov_ce"].backward()
    cases.check_gradients(model, fixture["ovr_grad_norms"], 342)
