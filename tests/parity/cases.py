"""What the parity tests of the family share: filling a model, batches, comparisons."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Instances
from torch import Tensor, nn

from maftp.api import experiment_params
from maftp.config import Params, parse_params
from tests.parity.weights import fixture_tensor

HERE = Path(__file__).resolve().parent


def read(name: str) -> Any:
    """Return the arrays of a fixture."""
    return np.load(HERE / f"{name}.npz")


def params_of(experiment: str, **blocks: dict[str, Any]) -> Params:
    """Return an experiment's parameters with values of some blocks replaced."""
    values = experiment_params(experiment).model_dump(mode="json")
    for block, over in blocks.items():
        values[block] = values[block] | over
    return parse_params(values, source=experiment)


def fill(
    model: nn.Module,
    value: Callable[[str, Tensor], Tensor] = fixture_tensor,
    rename: Callable[[str], str] = lambda name: name,
) -> None:
    """Give every entry the value that belongs to its name in the public checkpoint."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            tensor.copy_(value(rename(name), tensor))


def images(fixture: Any) -> list[dict[str, Tensor]]:
    """Return the two images as the model takes them."""
    return [
        {"image": torch.from_numpy(fixture[f"image_{index}"]).permute(2, 0, 1)}
        for index in range(2)
    ]


def batch(fixture: Any) -> list[dict[str, Any]]:
    """Return the two images with their ground truth."""
    items: list[dict[str, Any]] = images(fixture)
    for index, item in enumerate(items):
        masks = torch.from_numpy(fixture[f"masks_{index}"])
        instances = Instances(tuple(masks.shape[1:]))
        instances.gt_classes = torch.from_numpy(fixture[f"classes_{index}"])
        instances.gt_masks = BitMasks(masks)
        item["instances"] = instances
    return items


def difference(found: Tensor, expected: np.ndarray) -> float:
    """Return the largest difference as a share of the largest expected value."""
    wanted = torch.from_numpy(expected)
    assert found.shape == wanted.shape
    return float((found.detach() - wanted).abs().max() / wanted.abs().max())


def check_gradients(model: nn.Module, expected: str, count: int) -> None:
    """Compare the gradients' norms, 1e-3 above 1e-6, and which parameters have one."""
    norms = {n: p.grad.norm().item() for n, p in model.named_parameters() if p.grad is not None}
    wanted = json.loads(str(expected))
    assert set(norms) == set(wanted) and len(wanted) == count
    significant = {name: norm for name, norm in wanted.items() if norm > 1e-6}
    assert {name: norms[name] for name in significant} == pytest.approx(significant, rel=1e-3)


def check_panoptic(result: dict[str, Any], fixture: Any, index: int, *, share: float) -> None:
    """Compare the segments, and the share of equal pixels."""
    ids, segments = result["panoptic_seg"]
    rows = [[s["id"], s["category_id"], int(s["isthing"])] for s in segments]
    assert rows == fixture[f"segments_{index}"].tolist()
    assert (ids.numpy() == fixture[f"panoptic_{index}"]).mean() >= share


def check_instances(found: Instances, expected: np.ndarray, *, tolerance: float = 5e-4) -> None:
    """Compare classes, scores and areas of instances, sorted by falling score."""
    order = found.scores.argsort(descending=True)
    assert found.pred_classes[order].tolist() == expected[:, 0].tolist()
    assert found.scores[order].numpy() == pytest.approx(expected[:, 1], rel=tolerance)
    areas = found.pred_masks[order].flatten(1).sum(1).numpy()
    assert areas == pytest.approx(expected[:, 2], rel=1e-3)
