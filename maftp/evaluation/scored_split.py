"""What a benchmark scores: images, classes and ground truth, from the catalog and its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog

from maftp.config import Params
from maftp.data.catalog import Catalog, Dataset
from maftp.data.layout import vocabulary_path
from maftp.data.records import register
from maftp.data.vocabulary import Color, Vocabulary, read_vocabulary, seen_categories
from maftp.errors import DataError
from maftp.evaluation.evaluators import (
    OverlayDrawer,
    PanopticEvaluator,
    SemanticEvaluator,
)
from maftp.evaluation.instance import InstanceEvaluator, InstanceTruth
from maftp.evaluation.panoptic import PanopticTruth


@dataclass(frozen=True)
class ScoredSplit:
    """The split that a benchmark scores."""

    name: str
    """Detectron2's name of the split."""
    metric: str
    """semantic, panoptic or instance."""
    records: list[dict[str, Any]]
    vocabulary: Vocabulary
    seen: list[bool]
    """For each class whether training knew one of its names."""
    ignore_label: int
    truth: PanopticTruth | InstanceTruth | None
    """None for semantic benchmarks, whose records name a label file each."""
    total: int
    """Images of the split, of which `records` are all or the first."""

    @property
    def whole(self) -> bool:
        """Return whether all images of the split are scored."""
        return len(self.records) == self.total

    @property
    def names(self) -> list[str]:
        """Return the class names."""
        return self.vocabulary.names

    @property
    def colours(self) -> list[Color]:
        """Return a colour per class."""
        return [category.color for category in self.vocabulary.categories]

    @property
    def things(self) -> list[int]:
        """Return the classes that are things; empty for semantic benchmarks."""
        if isinstance(self.truth, InstanceTruth):
            return self.truth.category_ids
        if isinstance(self.truth, PanopticTruth):
            return [
                index
                for index, key in enumerate(self.truth.category_ids)
                if self.truth.categories[key]["isthing"]
            ]
        return []

    def scorer(self) -> SemanticEvaluator | PanopticEvaluator | InstanceEvaluator:
        """Return the evaluator of the benchmark's metric."""
        if isinstance(self.truth, InstanceTruth):
            image_ids = [record["image_id"] for record in self.records]
            seen = dict(enumerate(self.seen))
            return InstanceEvaluator(truth=self.truth, seen=seen, image_ids=image_ids)
        if isinstance(self.truth, PanopticTruth):
            scored = [str(record["image_id"]) for record in self.records]
            return PanopticEvaluator(
                truth=self.truth,
                seen=self.seen,
                image_ids=list(self.truth.annotations) if self.whole else scored,
            )
        return SemanticEvaluator(names=self.names, ignore_label=self.ignore_label, seen=self.seen)

    def drawer(self, folder: Path, count: int) -> OverlayDrawer:
        """Return what draws the first `count` images."""
        return OverlayDrawer(
            folder=folder,
            count=count,
            names=self.names,
            colours=self.colours,
            ignore_label=self.ignore_label,
            truth=self.truth,
        )


def load_split(
    benchmark: str, *, params: Params, catalog: Catalog, root: Path, training: list[str]
) -> ScoredSplit:
    """Register the catalog with Detectron2 and gather what a benchmark scores.

    Args:
        benchmark: name in the catalog.
        params: says how many images.
        catalog: describes the benchmark.
        root: datasets root.
        training: class names that training knows.

    Raises:
        DataError: the benchmark is not known or not converted.
    """
    entry = catalog.benchmark(benchmark)
    dataset = catalog.dataset(entry.dataset)
    split = dataset.splits[entry.split]
    register(catalog, root)
    records = DatasetCatalog.get(split.name)
    vocabulary = class_names(dataset, root)
    truth: PanopticTruth | InstanceTruth | None = None
    annotations = root / str(split.annotations)
    if entry.metric == "panoptic":
        truth = PanopticTruth.read(annotations, root / str(split.panoptic))
        if len(truth.categories) != len(vocabulary):
            raise DataError(
                f"{annotations}: {len(truth.categories)} categories, but the vocabulary has "
                f"{len(vocabulary)} classes; convert the data set again"
            )
    elif entry.metric == "instance":
        truth = InstanceTruth.read(annotations)
    return ScoredSplit(
        name=split.name,
        metric=entry.metric,
        records=records[: params.evaluate.max_images],
        vocabulary=vocabulary,
        seen=seen_categories(vocabulary.names, training),
        ignore_label=dataset.ignore_label,
        truth=truth,
        total=len(records),
    )


def class_names(dataset: Dataset, root: Path) -> Vocabulary:
    """Read the vocabulary of a data set."""
    path = vocabulary_path(root, dataset.vocabulary)
    return read_vocabulary(path, keep_row_zero=dataset.keep_row_zero)
