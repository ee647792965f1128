"""What the page shows of a segmented picture, without the page."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from maftp.api import Segmentation, load
from maftp.apps.demo_answer import Answer, Engine, describe, zip_answers
from maftp.apps.pictures import Picture
from maftp.data.vocabulary import class_color

NAMES = ("sky", "car, taxi")


@pytest.fixture(scope="module")
def loaded(weights):
    return load(weights)


@pytest.fixture
def answer(loaded) -> Answer:
    """Two cars in the sky of a picture of 6 x 9 pixels, and a corner of nothing."""
    labels = np.zeros((6, 9), np.int32)
    labels[1:4, 1:4] = labels[1:3, 6:8] = 1
    labels[5, 8] = -1
    segments = labels + 1
    segments[1:3, 6:8] = 3
    kinds = [(1, 0), (2, 1), (3, 1)]
    found = Segmentation(
        labels, np.full((6, 9), 0.75, np.float32), NAMES, torch.ones(2, 6, 9), segments,
        [{"id": key, "isthing": kind == 1, "category_id": kind} for key, kind in kinds],
    )  # fmt: skip
    picture = Picture("street", Path("street.png"), np.zeros((6, 9, 3), np.uint8))
    return Answer(picture, found, loaded.predictor(NAMES, panoptic=True))


def test_the_region_under_a_point(answer):
    first, second = answer.region_at(1.0, 3.9), answer.region_at(7.5, 1.5)
    assert (first.name, first.area, second.name, second.area) == ("car", 9, "car", 4)
    assert answer.region_at(0, 0).name == "sky"
    for outside in ((8.5, 5.5), (-0.1, 0), (9, 0), (0, 6)):
        assert answer.region_at(*outside) is None
    assert describe(first, answer) == "car · score 0.75 · 16.7% of the picture"


def test_without_segments_a_class_is_one_region(loaded, pixels):
    answer = Engine(loaded)(Picture("a", Path("a.png"), pixels), NAMES, panoptic=False)
    for region in answer.found.regions:
        y, x = np.argwhere(answer.found.labels == region.class_index)[0]
        assert answer.region_at(x, y) == region


def test_the_overlay_has_the_colours_of_the_classes_and_borders(answer):
    overlay = np.asarray(Image.open(io.BytesIO(answer.overlay())))
    assert overlay.shape == (6, 9, 4)
    assert tuple(overlay[0, 0]) == (*class_color(0), 255)
    assert tuple(overlay[2, 2]) == (*class_color(1), 255)
    assert tuple(overlay[2, 1]) == (255, 255, 255, 255)  # between car and sky
    assert overlay[5, 7, 3] == 255 and overlay[0, 8, 3] == 255


def test_an_outline_runs_around_a_region_and_its_holes(answer):
    car, sky = answer.region_at(1, 1), answer.region_at(0, 0)
    assert answer.outline(car) == "M1.5 1.5L1.5 3.5L3.5 3.5L3.5 1.5Z"
    assert answer.outline(sky).count("M") == 3
    drawn = np.zeros((6, 9), np.uint8)
    for part in answer.outline(car).strip("Z").split("ZM"):
        points = [point.split() for point in part.strip("M").split("L")]
        cv2.fillPoly(drawn, [np.array(points, float).astype(int)], 1)
    np.testing.assert_array_equal(drawn == 1, answer.ids == car.id)


def test_the_files_are_those_of_predict(answer, tmp_path):
    with zipfile.ZipFile(io.BytesIO(zip_answers([answer]))) as archive:
        kinds = ("json", "labels.png", "overlay.png", "segments.png")
        assert archive.namelist() == [f"street.{kind}" for kind in kinds]
        labels = np.asarray(Image.open(io.BytesIO(archive.read("street.labels.png"))))
        record = json.loads(archive.read("street.json"))
    np.testing.assert_array_equal(
        labels, np.where(answer.found.labels < 0, 255, answer.found.labels)
    )
    assert [region["class"] for region in record["segments"]] == ["sky", "car", "car"]
    with zipfile.ZipFile(io.BytesIO(zip_answers([answer, answer]))) as archive:
        assert {name.split("/")[0] for name in archive.namelist()} == {"model1", "model2"}
