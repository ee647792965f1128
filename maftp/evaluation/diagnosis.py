"""Where a model loses: its masks, its classes or its void, by size, by class and by word.

Everything is measured on the proposals of one pass over a benchmark and on the true regions, which
the method names as it names proposals (`oracles`). `Diagnosis.summary` says what is in the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from maftp.config import Params
from maftp.data.catalog import Catalog
from maftp.data.mapper import TestMapper
from maftp.errors import DataError
from maftp.evaluation.evaluators import SemanticEvaluator
from maftp.evaluation.oracles import (
    ORACLES,
    REPAIRS,
    Candidates,
    TrueRegions,
    as_proposals,
    at_full_size,
    overlaps,
    proposing,
    repaired,
    true_regions,
)
from maftp.evaluation.reliability import gap_shares, reliability, share
from maftp.evaluation.runner import device_of, set_classes
from maftp.evaluation.scored_split import ScoredSplit, class_names, load_split
from maftp.evaluation.word_relations import RELATIONS, WordRelations
from maftp.files import check_output, sha256, write_json
from maftp.modeling.build import load_model
from maftp.modeling.segmenter import Segmenter
from maftp.progress import track
from maftp.results import SCORES

SIZES = {"small": (0.0, 0.01), "medium": (0.01, 0.1), "large": (0.1, np.inf)}
"""Part of the image that a region covers, from and below."""
THRESHOLDS = tuple(round(0.1 * step, 1) for step in range(1, 10))
"""IoU at which a region counts as found."""
OBJECT_IOU = 0.5
"""Overlap with its region that makes a proposal an object, where void is calibrated."""
_TOP = 5
_CONFUSIONS = 30


def diagnose(
    params: Params,
    *,
    variant: str,
    seed: int,
    benchmarks: Sequence[str],
    weights: Path,
    catalog: Catalog,
    root: Path,
    out: Path,
    embeddings: Sequence[Path] = (),
    device: str | None = None,
) -> None:
    """Write `{benchmark}.json` for each of several benchmarks.

    Args:
        params: parameters of the variant.
        variant: its name, for the record.
        seed: of the training, for the record.
        benchmarks: semantic or panoptic ones, by their names in the catalog.
        weights: checkpoint, released or own.
        catalog: describes the benchmarks.
        root: datasets root.
        out: folder to write into.
        embeddings: cached text embeddings, one for each benchmark; none computes them.
        device: torch device; None takes a GPU when there is one.

    Raises:
        DataError: a benchmark has another metric, or its files are missing or damaged.
        CheckpointError: the weights are missing, damaged or of another model.
    """
    training = class_names(catalog.dataset(params.data.train), root).names
    splits = [
        load_split(name, params=params, catalog=catalog, root=root, training=training)
        for name in benchmarks
    ]
    for name, split in zip(benchmarks, splits, strict=True):
        check_output(out / f"{name}.json")
        if split.metric not in ("semantic", "panoptic"):
            raise DataError(
                f"{name}: a diagnosis needs a semantic or panoptic benchmark, this one is "
                f"{split.metric}; leave it out"
            )
    place = device or device_of(params)
    model = load_model(params, weights, place)
    named = _clip_alone(params, model, weights, place)
    for one in {id(found): found for found in (model, named)}.values():
        one.set_training_vocabulary(training)
    relations, digest = WordRelations.read(), sha256(weights)
    texts = [*embeddings, *([None] * (len(splits) - len(embeddings)))]
    for name, split, text in zip(benchmarks, splits, texts, strict=True):
        for one in (model, named):
            set_classes(one, split, text, shuffle=params.evaluate.shuffle_vocabulary)
        found = Diagnosis(model, named, split)
        mapper = TestMapper.from_params(params)
        for record in track(split.records, f"diagnose on {name}"):
            found.add(mapper(record), record)
        made = {"experiment": params.experiment, "variant": variant, "seed": seed}
        made |= {"benchmark": name, "metric": split.metric, "weights_sha256": digest}
        write_json(out / f"{name}.json", made | found.summary(relations))


def _clip_alone(params: Params, model: Segmenter, weights: Path, device: str) -> Segmenter:
    """Return the model with CLIP's classes alone, where the head has a say in the method's."""
    if params.model.name == "maftp" or params.model.ensemble == "clip":
        return model
    alone = params.model.model_copy(update={"ensemble": "clip"})
    return load_model(params.model_copy(update={"model": alone}), weights, device)


class Diagnosis:
    """Gathers, image by image, what a model does with a benchmark.

    Args:
        model: whose results are repaired; its vocabulary is set.
        named: the same with CLIP's classes alone; may be the same object.
        split: the benchmark.
    """

    def __init__(self, model: Segmenter, named: Segmenter, split: ScoredSplit) -> None:
        self._model, self._named, self._split = model, named, split
        self._scorers: dict[frozenset[str], Any] = {
            frozenset(oracles): split.scorer() for oracles in REPAIRS
        }
        self._regions: list[dict[str, np.ndarray]] = []
        self._proposals: list[dict[str, np.ndarray]] = []

    @torch.inference_mode()
    def add(self, item: Mapping[str, Any], record: Mapping[str, Any]) -> None:
        """Look at one image.

        Args:
            item: what the mapper made of the record.
            record: of the split.

        Raises:
            DataError: image and ground truth do not fit.
        """
        model = self._model
        own = _candidates(model, item)
        self._score((), item, own, own.scores)  # says where image and ground truth differ in size
        regions = true_regions(record, self._split, model.device)
        if not len(regions.classes):
            for oracles in REPAIRS[1:]:
                self._score(oracles, item, own, own.scores)
            return
        iou = overlaps(own, regions, model.mask_kind)  # (N, R)
        truth = torch.from_numpy(regions.classes).to(model.device)
        nearest = torch.where(iou.amax(1) > 0, truth[iou.argmax(1)], -1)  # (N,)
        best = iou.argmax(0)  # (R,)
        is_best = torch.zeros(len(iou), dtype=torch.bool, device=model.device)
        is_best[best[iou.amax(0) > 0]] = True
        given = self._named_regions(model, item, regions, own, best)
        exact = at_full_size(given, regions, model.mask_kind)
        for oracles in REPAIRS[1:]:
            on_masks = "masks" in oracles
            chosen = exact if on_masks else own
            scores = repaired(
                chosen,
                oracles,
                classes=truth if on_masks else nearest,
                objects=torch.ones_like(truth, dtype=torch.bool) if on_masks else is_best,
            )
            self._score(oracles, item, chosen, scores)
        clip = given
        if self._named is not model:
            clip = self._named_regions(self._named, item, regions, own, best)
        self._note(regions, iou, best, own=own, given=given, clip=clip)
        objects = is_best & (iou.amax(1) >= OBJECT_IOU)
        self._proposals.append(_arrays(confidence=own.probabilities[1], right=objects))

    def _score(
        self, oracles: Sequence[str], item: Mapping[str, Any], chosen: Candidates, scores: Tensor
    ) -> None:
        results = self._model.results(chosen.items, chosen.images, scores, chosen.masks)
        self._scorers[frozenset(oracles)].process([item], results)

    def _named_regions(
        self,
        model: Segmenter,
        item: Mapping[str, Any],
        regions: TrueRegions,
        own: Candidates,
        best: Tensor,
    ) -> Candidates:
        """Let a model name the true regions as it names its proposals."""
        with proposing(model, as_proposals(regions, own.frame), best):
            return _candidates(model, item)

    def _note(
        self,
        regions: TrueRegions,
        iou: Tensor,
        best: Tensor,
        *,
        own: Candidates,
        given: Candidates,
        clip: Candidates,
    ) -> None:
        truth = torch.from_numpy(regions.classes).to(best.device)
        confidence, method = given.probabilities[0].max(-1)
        ranked = clip.probabilities[0]
        top = ranked.topk(min(_TOP, ranked.shape[-1])).indices
        self._regions.append(
            _arrays(
                truth=truth,
                share=torch.from_numpy(regions.shares),
                iou=iou.amax(0),
                confidence=confidence,
                method=method,
                clip=ranked.argmax(-1),
                clip_top5=(top == truth[:, None]).any(-1),
                proposal=own.probabilities[0].argmax(-1)[best],
            )
        )

    def summary(self, relations: WordRelations) -> dict[str, Any]:
        """Return what is written.

        scores        by repaired parts, joined with "+": of all, seen and unseen classes
        gap           what repairing everything adds, shared out between the parts
        naming        percent of true regions that CLIP names right, that the method names right,
                      and whose best proposal has the right class; by seen, unseen and size
        recall        percent of true regions that a proposal finds, by IoU and size
        calibration   of the class of true regions, and of being an object of proposals
        words         what wrong names have to do with the right ones
        per_class     all of this for each class
        """
        regions = pd.DataFrame(_joined(self._regions, _REGION_COLUMNS))
        seen = np.asarray(self._split.seen, dtype=bool)
        parts = _parts(regions, seen)
        results = {oracles: scorer.evaluate() for oracles, scorer in self._scorers.items()}
        main = {oracles: self._main(result) for oracles, result in results.items()}
        proposals = _joined(self._proposals, ("confidence", "right"))
        right = (regions.method == regions.truth).to_numpy()
        return {
            "images": len(self._split.records),
            "scores": {_key(oracles): main[frozenset(oracles)] for oracles in REPAIRS},
            "gap": _gap(lambda oracles: main[frozenset(oracles)]["score"]),
            "naming": {name: _naming(regions[chosen]) for name, chosen in parts.items()},
            "recall": _recall(regions, parts),
            "calibration": {
                "classes": reliability(regions.confidence.to_numpy(), right),
                "void": reliability(proposals["confidence"], proposals["right"].astype(bool)),
            },
            "words": self._words(regions, relations),
            "per_class": self._per_class(regions, results),
        }

    def _main(self, result: Mapping[str, Any]) -> dict[str, float | None]:
        name = next(iter(SCORES[self._split.metric]))
        scores = result["scores"]
        if self._split.metric == "semantic":
            return {"score": scores[name]} | {
                part: scores[part][name] for part in ("seen", "unseen")
            }
        found = pd.DataFrame(result["per_class"]).dropna(subset=[name])
        means = {
            part: _number(found[found.seen.astype(bool) == known][name].mean())
            for part, known in (("seen", True), ("unseen", False))
        }
        return {"score": scores[name]} | means

    def _words(self, regions: pd.DataFrame, relations: WordRelations) -> dict[str, Any]:
        """Return shares of errors by relation, and the commonest confusions."""
        names = self._split.names
        pairs = regions.groupby(["truth", "method"]).size()
        found = {"regions": _by_relation(pairs, names, relations)}
        weights = pairs
        scorer = self._scorers[frozenset()]
        if isinstance(scorer, SemanticEvaluator):
            predicted, truth = np.nonzero(scorer.matrix.counts[:, :-1])
            index = pd.MultiIndex.from_arrays([truth, predicted], names=["truth", "method"])
            weights = pd.Series(scorer.matrix.counts[predicted, truth], index=index)
            found["pixels"] = _by_relation(weights, names, relations)
        wrong = weights[[truth != other for truth, other in weights.index]]
        found["confusions"] = [
            {"truth": names[truth], "predicted": names[other]}
            | {"percent_of_errors": 100 * float(count) / float(wrong.sum())}
            | {"relation": relations.between(names[truth], names[other])}
            for (truth, other), count in wrong.nlargest(_CONFUSIONS).items()
        ]
        return found

    def _per_class(
        self, regions: pd.DataFrame, results: Mapping[frozenset[str], Any]
    ) -> list[dict[str, Any]]:
        name = "IoU" if self._split.metric == "semantic" else "PQ"
        scores = {
            _key(oracles): [row[name] for row in results[frozenset(oracles)]["per_class"]]
            for oracles in ((), *((one,) for one in ORACLES))
        }
        return [
            {"id": index, "name": text, "seen": bool(self._split.seen[index])}
            | {f"{name}, {key}": values[index] for key, values in scores.items()}
            | _naming(regions[regions.truth == index])
            | {"found at 0.5": share((regions.iou[regions.truth == index] >= 0.5).to_numpy())}
            for index, text in enumerate(self._split.names)
            if (regions.truth == index).any()
        ]


_REGION_COLUMNS = (
    "truth", "share", "iou", "confidence", "method", "clip", "clip_top5", "proposal",
)  # fmt: skip


def _candidates(model: Segmenter, item: Mapping[str, Any]) -> Candidates:
    text, rows = model.classifier(model.test_names)
    items, images, scores, masks = model.proposals([item], model.preprocess([item]), text, rows)
    return Candidates(items, images, scores.float(), masks.float())


def _arrays(**columns: Tensor) -> dict[str, np.ndarray]:
    return {name: values.cpu().numpy() for name, values in columns.items()}


def _joined(parts: Sequence[dict[str, np.ndarray]], columns: Sequence[str]) -> dict[str, Any]:
    return {
        name: np.concatenate([part[name] for part in parts]) if parts else np.zeros(0)
        for name in columns
    }


def _parts(regions: pd.DataFrame, seen: np.ndarray) -> dict[str, np.ndarray]:
    """Return which regions belong to all, to seen and unseen classes, and to each size."""
    known = seen[regions.truth.to_numpy(dtype=np.int64)]
    parts = {"all": np.ones(len(regions), dtype=bool), "seen": known, "unseen": ~known}
    for name, (low, high) in SIZES.items():
        parts[name] = ((regions.share >= low) & (regions.share < high)).to_numpy()
    return parts


def _naming(regions: pd.DataFrame) -> dict[str, Any]:
    """Return how many there are, and percent right by CLIP, by the method and as proposed."""
    found = {
        name: share((regions[name] == regions.truth).to_numpy())
        for name in ("clip", "method", "proposal")
    }
    return {"regions": len(regions), **found, "clip_top5": share(regions.clip_top5.to_numpy(float))}


def _recall(regions: pd.DataFrame, parts: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    return [
        {"iou": threshold}
        | {name: share((regions.iou[part] >= threshold).to_numpy()) for name, part in parts.items()}
        for threshold in THRESHOLDS
    ]


def _gap(score: Callable[[Sequence[str]], float | None]) -> dict[str, float | None]:
    """Return the score, what each part takes from it, and what no repair gives back.

    Nothing is known where no class could be scored.
    """
    first, last = score(()), score(ORACLES)
    if first is None or last is None:
        return dict.fromkeys(("score", *ORACLES, "rest"))
    shares = gap_shares(ORACLES, lambda oracles: score(tuple(oracles)) or 0.0)
    return {"score": first, **shares, "rest": 100 - last}


def _by_relation(
    weights: pd.Series, names: Sequence[str], relations: WordRelations
) -> dict[str, float | None]:
    """Return percent of everything that is right, and that is wrong in each way."""
    total = float(weights.sum())
    found = dict.fromkeys(("right", *RELATIONS), 0.0)
    for (truth, other), count in weights.items():
        key = "right" if truth == other else relations.between(names[truth], names[other])
        found[key] += 100 * float(count) / total
    return found if total else dict.fromkeys(found)


def _key(oracles: Sequence[str]) -> str:
    return "+".join(oracles) or "none"


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
