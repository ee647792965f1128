"""Oracles on hand-made proposals."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.structures import ImageList
from PIL import Image
from torch import nn

from maftp.evaluation.oracles import (
    REPAIRS,
    Candidates,
    OracleHead,
    TrueRegions,
    as_proposals,
    overlaps,
    repaired,
    true_regions,
)
from maftp.losses.predictions import Predictions
from maftp.modeling.postprocessing import Frame


def candidates(masks, probabilities=((0.5, 0.5),)):
    """Proposals on an image of the masks' size."""
    masks = torch.tensor(masks, dtype=torch.float32)
    scores = torch.tensor(probabilities).log()[None]
    images = ImageList(torch.empty(1, 1, *masks.shape[-2:]), [tuple(masks.shape[-2:])])
    return Candidates([{}], images, scores, masks[None])


def regions(labels, ignore=9):
    labels = torch.tensor(labels)
    classes = [value for value in labels.unique().tolist() if value != ignore]
    masks = torch.stack([labels == value for value in classes])
    return TrueRegions(np.array(classes), masks, labels != ignore)


def test_overlaps_leave_out_pixels_that_are_not_scored():
    truth = regions([[0, 0, 1, 9]])
    found = overlaps(candidates([[[1, -1, 1, 1]], [[-1, -1, -1, 1]]]), truth, "logits")
    # first: pixel 0 of region 0's two, and pixel 2, which is region 1; the last one is ignored
    assert found.tolist() == [[pytest.approx(1 / 3), 1 / 2], [0, 0]]
    assert overlaps(candidates([[[1, 1, 0.4, 0]]]), truth, "probabilities").tolist() == [[1, 0]]
    assert truth.shares == pytest.approx([2 / 3, 1 / 3])


def test_all_sets_of_oracles():
    assert len(REPAIRS) == 8 and REPAIRS[0] == () and set(REPAIRS[-1]) == set(REPAIRS[7])


@pytest.mark.parametrize(
    ("oracles", "expected"),
    [
        (("masks",), [[0.1, 0.3, 0.6], [0.2, 0.2, 0.6], [0.3, 0.3, 0.4]]),
        (("classes",), [[0.0, 0.4, 0.6], [0.4, 0.0, 0.6], [0.3, 0.3, 0.4]]),
        (("void",), [[0.25, 0.75, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]),
        (("classes", "void"), [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]),
    ],
)
def test_what_is_repaired_of_scores(oracles, expected):
    """Two classes and void; the third proposal lies on no region, only the first is an object."""
    own = candidates([[[1.0]]] * 3, [[0.1, 0.3, 0.6], [0.2, 0.2, 0.6], [0.3, 0.3, 0.4]])
    found = repaired(
        own,
        oracles,
        classes=torch.tensor([1, 0, -1]),
        objects=torch.tensor([True, False, False]),
    )
    assert found.softmax(-1)[0].tolist() == [pytest.approx(row, abs=1e-6) for row in expected]


def test_regions_as_proposals_say_how_much_of_each_square_they_cover():
    labels = np.zeros((8, 8), int)
    labels[:4, :3] = 1  # three quarters of the upper left square
    truth = regions(labels.tolist())
    found = as_proposals(truth, Frame(canvas=(8, 12), image_size=(8, 8), size=(8, 8))).sigmoid()
    assert found.shape == (1, 2, 2, 3)
    assert found[0, 1].tolist() == [pytest.approx(row, abs=2e-4) for row in ([0.75, 0, 0], [0] * 3)]
    assert found[0, 0].tolist() == [
        pytest.approx(row, abs=2e-4) for row in ([0.25, 1, 0], [1, 1, 0])
    ]


def test_the_head_of_an_oracle_keeps_the_logits_of_chosen_queries():
    class Head(nn.Module):
        def forward(self, text, *, auxiliary):
            logits = torch.arange(6.0).view(1, 2, 3, 1) + text
            return Predictions(logits, torch.zeros(1, 2, 3, 2, 2), logits, torch.zeros(1, 1, 2, 2))

    masks = torch.ones(1, 2, 4, 4)
    found = OracleHead(Head(), masks, torch.tensor([2, 0]))(10.0, auxiliary=False)
    assert found.logits[:, -1].flatten().tolist() == [15, 13]  # of the last call
    assert found.masks.shape == (1, 1, 2, 4, 4)


def test_regions_of_a_label_file(tmp_path):
    Image.fromarray(np.array([[3, 3, 255], [0, 3, 255]], np.uint8)).save(tmp_path / "a.png")
    split = SimpleNamespace(truth=None, ignore_label=255)
    found = true_regions({"sem_seg_file_name": str(tmp_path / "a.png")}, split, torch.device("cpu"))
    assert found.classes.tolist() == [0, 3]
    assert found.masks[1].tolist() == [[True, True, False], [False, True, False]]
    assert found.scored.tolist() == [[True, True, False]] * 2
