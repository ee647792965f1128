"""One model on one benchmark: predictions, scores, pictures, and where they come from.

Follows the open-vocabulary protocol of MAFT+ (ECCV 2024): each benchmark has its own vocabulary,
one image at a time at the size of its file, without test-time augmentation by default.
"""

from __future__ import annotations

import importlib.metadata
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import torch
from detectron2.data import build_detection_test_loader
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators

from maftp.config import Params
from maftp.data.catalog import Catalog
from maftp.data.fingerprint import picture_digests
from maftp.data.layout import manifest_path
from maftp.data.mapper import TestMapper
from maftp.errors import DataError, MaftpError, ParamsError
from maftp.evaluation.augmentation import Augmented
from maftp.evaluation.control import reorder_embeddings, shuffled_order
from maftp.evaluation.instance import InstanceEvaluator
from maftp.evaluation.scored_split import ScoredSplit, class_names, load_split
from maftp.evaluation.statistics import CONFUSION, IMAGES
from maftp.files import atomic_path, check_output, check_replaceable, sha256, write_json
from maftp.memory import peak_memory
from maftp.modeling.build import load_model
from maftp.modeling.checkpoint_file import read_metadata
from maftp.modeling.precision import allow_tf32
from maftp.modeling.segmenter import Segmenter
from maftp.modeling.text_classifier import TextEmbeddings
from maftp.ops import backends
from maftp.progress import track
from maftp.tracking.manifest import circumstances, input_digests

Predict = Callable[[list[Any]], list[dict[str, Any]]]

logger = logging.getLogger(__name__)

_RECORDED = ("data", "input", "clip", "model", "evaluate", "weights")
"""Blocks of the parameters that a score depends on."""
_PACKAGES = ("torch", "numpy", "pillow", "open_clip_torch", "timm", "detectron2")


def evaluate(
    params: Params,
    *,
    variant: str,
    seed: int,
    benchmark: str,
    weights: Path,
    catalog: Catalog,
    root: Path,
    out: Path,
    overlays_dir: Path | None = None,
    statistics_dir: Path | None = None,
    embeddings: Path | None = None,
    model: Segmenter | None = None,
    device: str | None = None,
) -> dict[str, Any]:
    """Score a checkpoint on a benchmark; write the result and pictures.

    Args:
        params: parameters of the variant (`Params.for_variant`).
        variant: its name, for the record.
        seed: of the training, for the record.
        benchmark: name in the catalog.
        weights: checkpoint of the model, released or own.
        catalog: describes the benchmark.
        root: datasets root.
        out: JSON file to write.
        overlays_dir: folder of pictures to write (`params.evaluate.overlays` of them), or None.
        statistics_dir: folder of counts per image to write, or None; see
            `maftp.evaluation.statistics`.
        embeddings: cached text embeddings of the benchmark's vocabulary; None computes them.
        model: what `load_model` returned for `params` and `weights`; None loads it.
        device: torch device; None takes a GPU when there is one.

    Returns:
        What the JSON file holds; scores are percentages.

    Raises:
        DataError: images, labels or vocabulary are missing or damaged.
        CheckpointError: the weights are missing, damaged or of another model.
    """
    check_output(out)
    training = class_names(catalog.dataset(params.data.train), root).names
    split = load_split(benchmark, params=params, catalog=catalog, root=root, training=training)
    _check_folders(split, overlays_dir, statistics_dir)
    allow_tf32(params.evaluate.tf32)
    if model is None:
        model = load_model(params, weights, device or device_of(params))
    model.set_training_vocabulary(training)
    set_classes(model, split, embeddings, shuffle=params.evaluate.shuffle_vocabulary)
    scorer = split.scorer()
    with _whole_folder(overlays_dir) as folder:
        evaluators: list[DatasetEvaluator] = [scorer]
        if folder is not None:
            evaluators.append(split.drawer(folder, params.evaluate.overlays))
        seconds = predict_all(_augmented(params, model, split), split, evaluators, params)
    scores = scorer.evaluate()
    if scores is None:
        raise RuntimeError("results are written by the first process only")
    result = {
        "experiment": params.experiment,
        "variant": variant,
        "seed": seed,
        "benchmark": benchmark,
        "metric": split.metric,
        "mode": _mode(model),
        "shuffled_vocabulary": params.evaluate.shuffle_vocabulary,
        "max_images": params.evaluate.max_images,
        "augmentation": params.evaluate.model_dump(mode="json")["augmentation"],
        **scores,
        "images_of_benchmark": split.total,
        "speed": _speed(seconds, len(split.records), model.device),
        "provenance": _provenance(
            params,
            split,
            weights,
            model.device,
            data=manifest_path(root, catalog.benchmark(benchmark).dataset),
        ),
    }
    with _whole_folder(statistics_dir) as folder:
        if folder is not None and not isinstance(scorer, InstanceEvaluator):
            scorer.write_statistics(folder)
    write_json(out, result)
    return result


def device_of(params: Params) -> str:
    """Return the GPU where there is one; say so where one was asked for and is missing."""
    if torch.cuda.is_available():
        return "cuda"
    if params.execution.gpus_per_worker:
        logger.warning("there is no GPU here: scoring on the CPU, which takes hours")
    return "cpu"


def _check_folders(split: ScoredSplit, overlays: Path | None, statistics: Path | None) -> None:
    """Check before the work that the folders can be written and that nothing foreign is in them."""
    pictures = {f"{Path(record['file_name']).stem}.png" for record in split.records}
    for folder, names in ((overlays, pictures), (statistics, {IMAGES, CONFUSION})):
        if folder is not None:
            check_output(folder, folder=True)
            check_replaceable(folder, names)


def _augmented(params: Params, model: Segmenter, split: ScoredSplit) -> Predict:
    if params.evaluate.augmentation is None:
        return model
    if split.metric != "semantic":
        raise ParamsError(
            f"evaluate.augmentation: gives semantic scores only, but the metric is "
            f"{split.metric}; set it to null or leave the benchmark out"
        )
    model.semantic_output = "scores"  # averaged before the largest is taken
    return Augmented.from_params(params, model)


def set_classes(
    model: Segmenter, split: ScoredSplit, embeddings: Path | None, *, shuffle: bool
) -> None:
    """Give the model the benchmark's classes; `shuffle` describes each by another one's names.

    Panoptic output follows the benchmark, not the training set: with it on, semantic scores would
    be computed in the other order of resizing and summing.
    """
    text = None if embeddings is None else TextEmbeddings.load(embeddings)
    names = split.names
    if text is not None and text.names != tuple(names):
        raise DataError(f"{embeddings}: not the names of {split.name}; remove it and embed again")
    if shuffle:
        order = shuffled_order(len(names))
        names = [names[index] for index in order]
        text = None if text is None else reorder_embeddings(text, order)
    model.set_test_vocabulary(names, things=split.things, embeddings=text)
    model.panoptic_on = split.metric != "semantic"
    model.instance_on = split.metric == "instance"
    model.semantic_output = "labels" if split.metric == "semantic" else "nothing"


@dataclass(frozen=True)
class Seconds:
    """Time of an evaluation."""

    all: float
    """With loading, scoring and drawing."""
    model: float
    """From an image in memory to its labels."""


@torch.inference_mode()
def predict_all(
    predict: Predict, split: ScoredSplit, evaluators: Sequence[DatasetEvaluator], params: Params
) -> Seconds:
    """Predict every image of the split, shared out among processes, and let evaluators see it."""
    loader = build_detection_test_loader(
        dataset=split.records,
        mapper=_Deferred(TestMapper.from_params(params)),
        num_workers=params.execution.loader_workers,
    )
    all_evaluators = DatasetEvaluators(evaluators)
    start, of_model = time.monotonic(), 0.0
    all_evaluators.reset()
    for batch in track(loader, split.name):
        for item in batch:
            if isinstance(item, MaftpError):
                raise item
        before = time.monotonic()
        predicted = predict(batch)
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # else the evaluators would wait for the model
        of_model += time.monotonic() - before
        all_evaluators.process(batch, predicted)
    return Seconds(all=time.monotonic() - start, model=of_model)


class _Deferred:
    """Hands a user's mistake on as the item; loader processes would wrap it in a traceback."""

    def __init__(self, mapper: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self._mapper = mapper

    def __call__(self, record: dict[str, Any]) -> dict[str, Any] | MaftpError:
        try:
            return self._mapper(record)
        except MaftpError as error:
            return error


@contextmanager
def _whole_folder(path: Path | None) -> Iterator[Path | None]:
    """Yield a folder that takes the place of `path` when all went well."""
    if path is None:
        yield None
        return
    with atomic_path(path) as temporary:
        temporary.mkdir()
        yield temporary


def _mode(model: Segmenter) -> str:
    """Name the order of resizing and summing, which moves semantic scores slightly."""
    first = model.inference.post_process_first
    if first is None:
        first = model.panoptic_on or model.instance_on
    return "combined" if first else "semantic-only"


def _speed(seconds: Seconds, num_images: int, device: torch.device) -> dict[str, float]:
    """Return time, images a second of the model alone, and peak memory."""
    return {
        "seconds": round(seconds.all, 3),
        "images_per_second": float(f"{num_images / seconds.model:.3g}"),
        **peak_memory(device),
    }


def _provenance(
    params: Params,
    split: ScoredSplit,
    weights: Path,
    device: torch.device,
    *,
    data: Path,
) -> dict[str, Any]:
    values = params.model_dump(mode="json")
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {
        "dataset": split.name,
        "catalog": params.data.catalog or "official",
        "own": params.data.own,
        "inputs": input_digests([path for path in (data, weights) if path.is_file()]),
        "vocabulary_sha256": split.vocabulary.digest,
        "weights_sha256": sha256(weights),
        "released": read_metadata(weights).get("released"),
        "params": {key: values[key] for key in _RECORDED},
        **circumstances(),
        "device": str(device),
        "operators": {"ms_deform_attn": backends.describe(device.type)},
        "pictures": picture_digests(),
        "versions": versions | {"opencv": cv2.__version__, "python": sys.version.split()[0]},
    }
