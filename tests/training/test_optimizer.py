"""Parameter rules, schedule and clipping of the recipe."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from maftp.training.optimizer import (
    build_optimizer,
    build_scheduler,
    clip_gradients,
    learning_rate_factor,
)


def rules_by_name(model, optimizer):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def test_every_rule(tiny, params):
    # Recipe: backbone 0.1 x the rate; no decay for norm layers and embedding tables only.
    model = tiny.TinyModel()
    rules = rules_by_name(model, build_optimizer(model, model.parameter_groups(), params=params))
    rate, decay = params.train.learning_rate, params.train.weight_decay
    assert rules == {
        "scale": (rate, decay),  # a raw parameter, like the pixel decoder's level embedding
        "backbone.0.weight": (0.1 * rate, decay),
        "backbone.0.bias": (0.1 * rate, decay),
        "backbone.1.weight": (0.1 * rate, 0.0),
        "backbone.1.bias": (0.1 * rate, 0.0),
        "queries.weight": (rate, 0.0),
        "head.weight": (rate, decay),
        "head.bias": (rate, decay),
    }


@pytest.mark.parametrize(
    "layer",
    [nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.BatchNorm2d(4), nn.InstanceNorm1d(4, affine=True)],
)
def test_norm_layers_do_not_decay(layer, params):
    groups = {"head": list(layer.named_parameters())}
    optimizer = build_optimizer(layer, groups, params=params)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0}


def test_fused_and_shared_groups_equal_one_plain_group_per_tensor(tiny, params):
    shared, single = tiny.TinyModel(), tiny.TinyModel()
    first = build_optimizer(shared, shared.parameter_groups(), params=params)
    rules = rules_by_name(shared, first)
    second = torch.optim.AdamW(
        {"params": [p], "lr": rules[name][0], "weight_decay": rules[name][1]}
        for name, p in single.named_parameters()
        if p.requires_grad
    )
    assert all(group["fused"] for group in first.param_groups)
    batches = tiny.tiny_batches()(0)
    for _ in range(5):
        batch = next(batches)
        for model, optimizer in ((shared, first), (single, second)):
            torch.manual_seed(0)
            sum(model(batch).values()).backward()
            optimizer.step()
            optimizer.zero_grad()
    for name, parameter in shared.named_parameters():
        # Rounding alone: five steps move a weight by up to 5e-3.
        torch.testing.assert_close(parameter, single.get_parameter(name), rtol=1e-5, atol=1e-6)


def test_framework_defaults(tiny, params):
    model = tiny.TinyModel()
    optimizer = build_optimizer(model, model.parameter_groups(), params=params)
    assert all(g["betas"] == (0.9, 0.999) and g["eps"] == 1e-8 for g in optimizer.param_groups)


def test_misfits_are_named(tiny, params):
    model = tiny.TinyModel()
    groups = model.parameter_groups()
    with pytest.raises(ValueError, match=r"\['neck'\] are not known"):
        build_optimizer(model, groups | {"neck": []}, params=params)
    with pytest.raises(ValueError, match="head.weight: in two"):
        twice = {"backbone": groups["backbone"], "head": [*groups["head"], groups["head"][-2]]}
        build_optimizer(model, twice, params=params)
    with pytest.raises(ValueError, match="backbone.0.weight.*neither frozen nor"):
        build_optimizer(model, {"head": groups["head"]}, params=params)
    with pytest.raises(ValueError, match="frozen.weight: in a parameter group but frozen"):
        build_optimizer(model, {"head": [("frozen.weight", model.frozen.weight)]}, params=params)
    with pytest.raises(ValueError, match="other: not a parameter"):
        build_optimizer(model, {"head": [("other", nn.Parameter(torch.ones(1)))]}, params=params)


def test_schedule_of_the_paper(tiny):
    # lr(t) = 1e-4 (1 - t/60000)^0.9: lr(30000) = 1e-4 * 0.5^0.9 = 5.359e-5.
    params = tiny.tiny_params(iterations=60000, learning_rate=1e-4, power=0.9)
    model = tiny.TinyModel()
    optimizer = build_optimizer(model, model.parameter_groups(), params=params)
    scheduler = build_scheduler(optimizer, params=params)
    assert max(scheduler.get_last_lr()) == pytest.approx(1e-4)
    assert min(scheduler.get_last_lr()) == pytest.approx(1e-5)
    factor = scheduler.lr_lambdas[0]
    assert 1e-4 * factor(30000) == pytest.approx(5.359e-5, rel=1e-4)
    assert factor(60000) == 0


def test_clipping_is_global():
    # Gradients 3 and 4: norm 5, scaled to 0.5 by 0.1 (torch adds 1e-6 to the norm).
    weights = [nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))]
    optimizer = torch.optim.AdamW([{"params": [weight]} for weight in weights])
    weights[0].grad, weights[1].grad = torch.tensor([3.0]), torch.tensor([4.0])
    assert clip_gradients(optimizer, max_norm=0.5).item() == pytest.approx(5)
    assert [w.grad.item() for w in weights] == pytest.approx([0.3, 0.4], rel=1e-5)


def scheduled(params, **train):
    return params.model_copy(update={"train": params.train.model_copy(update=train)})


def test_cosine_of_the_public_maskclippp(params):
    cosine = scheduled(params, iterations=20000, schedule="cosine", final_rate=0.05)
    found = [learning_rate_factor(step, params=cosine) for step in (0, 5000, 10000, 15000, 20000)]
    assert found == pytest.approx([1, 0.860876, 0.525, 0.189124, 0.05], abs=1e-6)


def test_a_tenth_at_each_milestone(params):
    steps = scheduled(params, iterations=100, schedule="steps", milestones=(60, 80))
    found = [learning_rate_factor(step, params=steps) for step in (0, 59, 60, 79, 80, 99)]
    assert found == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
