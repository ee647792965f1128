"""Python interface: load a model by its experiment's name, segment an image with any words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from maftp.config import Params, load_params
from maftp.data.resize import resize_image, resized_size
from maftp.errors import DataError, ParamsError
from maftp.modeling.build import build_model, build_teacher
from maftp.modeling.checkpoint import load_teacher, load_weights
from maftp.modeling.clip_backbone import PROJECT_ROOT, ClipBackbone, find_pretrained
from maftp.modeling.maft_plus import MaftPlus
from maftp.modeling.postprocessing import Segment

if TYPE_CHECKING:
    from maftp.modeling.fcclip import FCCLIP

DEFAULT_PARAMS = PROJECT_ROOT / "params.yaml"
DEFAULT_EXPERIMENT = "miniature"
EXPERIMENTS = PROJECT_ROOT / "workflow" / "experiments"


@dataclass(frozen=True)
class Segmentation:
    """What `segment` found in an image of H x W pixels, for a vocabulary of K classes."""

    semantic: NDArray[np.float32]
    """(K, H, W) scores, not normalised."""
    labels: NDArray[np.int64]
    """(H, W) class with the largest score."""
    panoptic: NDArray[np.int32] | None = None
    """(H, W) segment ids, 0 where there is none; None without panoptic output."""
    segments: list[Segment] | None = None
    """Segments as `id`, `isthing`, `category_id`; None without panoptic output."""


def load_model(
    experiment: str | Path | Params,
    weights: str | Path | None = None,
    device: str | torch.device = "cpu",
) -> MaftPlus | FCCLIP:
    """Build the model of an experiment, in evaluation mode.

    Args:
        experiment: a parameter file, or a name: `miniature`, or a file under workflow/experiments.
            `name:variant` chooses a variant; otherwise it is the first. Or parameters themselves.
        weights: a released checkpoint (.pth) or an own one (.safetensors); both hold CLIP's
            weights. None takes the pretrained CLIP and a segmentation head at random.
        device: where to put it.

    Raises:
        ParamsError: there is no such experiment or variant, or its parameters are wrong.
        CheckpointError: the weights are damaged or of another model.
        MaftpError: the pretrained CLIP is neither here nor can it be downloaded.
    """
    params = experiment if isinstance(experiment, Params) else experiment_params(experiment)
    load_clip = find_pretrained(params.clip) if weights is None else None
    model = build_model(params, num_training_classes=1, load_clip=load_clip, teacher=False)
    if weights is not None:
        vocabulary = load_weights(model, Path(weights)).get("training_vocabulary")
        if vocabulary is not None:
            model.set_training_vocabulary(vocabulary)
    if isinstance(model, MaftPlus):
        source = None if weights is None else Path(weights)
        model.make_teacher = partial(_make_teacher, params, source)
    return model.to(device).eval()


def segment(
    model: MaftPlus | FCCLIP,
    image: NDArray[np.uint8],
    vocabulary: Sequence[str] | str,
    *,
    short_side: int | None = 800,
    max_side: int = 1333,
    panoptic: bool = False,
    things: Sequence[int | str] | str = (),
) -> Segmentation:
    """Segment one image with a vocabulary of its own.

    Args:
        model: a model of `load_model`; it keeps the vocabulary, but not mode and outputs.
        image: (H, W, 3) uint8, RGB.
        vocabulary: class names, commas between synonyms; text alone is one class.
        short_side: the shorter side for the network, in pixels; None keeps the image's size.
        max_side: largest longer side, in pixels; not used when `short_side` is None.
        panoptic: find segments too.
        things: classes that are things, as indices or as names of the vocabulary.

    Raises:
        DataError: the image, the vocabulary or a thing class is of the wrong form.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise DataError(
            f"image: expected (H, W, 3) uint8, found {image.shape} {image.dtype}; convert it to RGB"
        )
    if not image.size:
        raise DataError(f"image: {image.shape[0]} x {image.shape[1]} pixels; give one with some")
    if max_side < 1 or (short_side is not None and short_side < 1):
        raise DataError(f"short_side {short_side}, max_side {max_side}: give 1 pixel or more")
    names = _class_names(vocabulary)
    things = [things] if isinstance(things, str) else things
    resized = image
    if short_side is not None:
        size = resized_size(*image.shape[:2], short_side=short_side, max_side=max_side)
        resized = resize_image(image, *size)
    item = {
        "image": torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1))),
        "height": image.shape[0],
        "width": image.shape[1],
    }
    with _evaluating(model), torch.no_grad():
        model.set_test_vocabulary(names, [_class_index(thing, names) for thing in things])
        model.panoptic_on = panoptic
        result = model([item])[0]
    scores = result["sem_seg"].cpu()
    found = Segmentation(semantic=scores.numpy(), labels=scores.argmax(0).numpy())
    if not panoptic:
        return found
    ids, segments = result["panoptic_seg"]
    return Segmentation(found.semantic, found.labels, ids.cpu().numpy(), segments)


def experiment_params(experiment: str | Path) -> Params:
    """Return the parameters of one variant of an experiment; see `load_model`.

    Raises:
        ParamsError: there is no such experiment or variant, or its parameters are wrong.
    """
    path, variant = _find_experiment(str(experiment))
    overlays = [] if path.resolve() == DEFAULT_PARAMS else [path]
    params = load_params(DEFAULT_PARAMS, *overlays)
    if variant is None:
        variant = next(iter(params.variants), None)
    return params if variant is None else params.for_variant(variant)


def _find_experiment(experiment: str) -> tuple[Path, str | None]:
    """Split `experiment` into its parameter file and the variant."""
    name, _, variant = experiment.rpartition(":")
    for candidate, chosen in ((experiment, None), (name, variant)):
        if candidate == DEFAULT_EXPERIMENT:
            return DEFAULT_PARAMS, chosen
        for path in (Path(candidate), EXPERIMENTS / f"{candidate}.yaml"):
            if candidate and path.is_file():
                return path, chosen
    known = ", ".join([DEFAULT_EXPERIMENT, *sorted(p.stem for p in EXPERIMENTS.glob("*.yaml"))])
    raise ParamsError(
        f"experiment {experiment!r} is neither a parameter file nor a known name; known: {known}"
    )


def _make_teacher(params: Params, weights: Path | None) -> ClipBackbone:
    """Take the teacher from the checkpoint when it holds one, else the pretrained CLIP."""
    if weights is not None:
        teacher = ClipBackbone.from_params(params, weights=None).frozen_copy(trunk_only=True)
        if load_teacher(teacher, weights):
            return teacher
    return build_teacher(params)


def _class_names(vocabulary: Sequence[str] | str) -> list[str]:
    names = [vocabulary] if isinstance(vocabulary, str) else list(vocabulary)
    for name in names:
        if not isinstance(name, str) or not name.strip(", "):
            raise DataError(f"vocabulary: {name!r} is no class name; give words, such as 'sky'")
    return names


def _class_index(thing: int | str, names: Sequence[str]) -> int:
    if not isinstance(thing, str) and not 0 <= int(thing) < len(names):
        raise DataError(f"thing class {thing}: the vocabulary has classes 0..{len(names) - 1}")
    if isinstance(thing, str):
        if thing not in names:
            raise DataError(f"thing class {thing!r} is not in the vocabulary; spell it as there")
        return names.index(thing)
    return int(thing)


@contextmanager
def _evaluating(model: MaftPlus | FCCLIP) -> Iterator[None]:
    """Switch to evaluation; put mode and panoptic output back afterwards."""
    training, panoptic_on = model.training, model.panoptic_on
    model.eval()
    try:
        yield
    finally:
        model.panoptic_on = panoptic_on
        if training:
            model.train()
