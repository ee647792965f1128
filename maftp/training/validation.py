"""Scores of the model between training steps: a benchmark's metric, and pictures."""

from __future__ import annotations

import math
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from maftp.data import layout
from maftp.data.catalog import load_catalog
from maftp.evaluation.runner import predict_all, set_classes
from maftp.evaluation.scored_split import load_split
from maftp.files import atomic_path
from maftp.modeling.segmenter import Segmenter
from maftp.results import MAIN_SCORE
from maftp.training.checkpoint import step_folder
from maftp.training.run_folder import VALIDATION

if TYPE_CHECKING:
    from maftp.config import Params


class Validation:
    """Scores a training model on the first images of a benchmark; workers share the images."""

    def __init__(
        self, model: Segmenter, *, params: Params, benchmark: str, images: int | None, folder: Path
    ) -> None:
        """Find the benchmark's images and classes.

        Args:
            model: is put into evaluation mode for the time it predicts.
            params: one variant of an experiment.
            benchmark: name in the catalog.
            images: how many of its images; None: all.
            folder: of the run, for pictures.

        Raises:
            DataError: the benchmark is not known or not converted.
        """
        evaluate = params.evaluate.model_copy(update={"max_images": images})
        self._params = params.model_copy(update={"evaluate": evaluate})
        self._model = model
        self._folder = folder / VALIDATION
        self._split = load_split(
            benchmark,
            params=self._params,
            catalog=load_catalog(params.data.catalog, params.data.own),
            root=layout.datasets_root(params.data.root),
            training=list(model.training_names or ()),
        )

    @classmethod
    def from_params(cls, model: Segmenter, params: Params, *, folder: Path) -> Validation:
        """Validate as `params.train.validation` says."""
        asked = params.train.validation
        assert asked is not None
        return cls(
            model, params=params, benchmark=asked.benchmark, images=asked.images, folder=folder
        )

    def __call__(self, step: int) -> float | None:
        """Predict, draw `params.evaluate.overlays` pictures, and return mIoU_b, PQ or AP.

        Returns:
            Percent, NaN when no class was there to score; None but on the first worker.
        """
        model, split = self._model, self._split
        evaluators: list[DatasetEvaluator] = [scorer := split.scorer()]
        set_classes(model, split, None, shuffle=False)
        model.eval()
        with ExitStack() as stack:
            if comm.is_main_process():
                pictures = stack.enter_context(atomic_path(step_folder(self._folder, step)))
                pictures.mkdir()
                evaluators.append(split.drawer(pictures, self._params.evaluate.overlays))
            predict_all(model, split, evaluators, self._params)
        model.train()
        result = scorer.evaluate()
        if result is None:
            return None
        score = result["scores"][MAIN_SCORE[split.metric]]
        return math.nan if score is None else score
