"""Python interface: load a model by its experiment's name, segment an image with any words."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from maftp.config import Params, load_params, recorded_params
from maftp.data.mapper import test_input
from maftp.errors import CheckpointError, DataError, ParamsError
from maftp.files import PROJECT_ROOT
from maftp.hub import SCHEME, fetch, read_folder
from maftp.modeling import build
from maftp.modeling.checkpoint_file import read_metadata
from maftp.modeling.postprocessing import Segment
from maftp.regions import NOTHING, Region, class_regions, enlarge, segment_regions
from maftp.results import MANIFEST, read_json

if TYPE_CHECKING:
    from maftp.modeling.segmenter import Segmenter

logger = logging.getLogger(__name__)

_PACKAGE = Path(__file__).parent
# Links to the checkout's params.yaml and workflow/experiments; a wheel holds copies.
DEFAULT_PARAMS = _PACKAGE / "params.yaml"
DEFAULT_EXPERIMENT = "miniature"
EXPERIMENTS = _PACKAGE / "experiments"
MINIATURE = Path("results/miniature/maftp/seed0/weights.safetensors")
PANOPTIC_PIXELS = 1_500_000
"""Segments of larger pictures are found at this size and enlarged, for memory."""


@dataclass(frozen=True)
class Segmentation:
    """What was found in an image of H x W pixels, for a vocabulary of K classes."""

    labels: NDArray[np.int32]
    """(H, W) class with the largest score; with segments the segment's, -1 where there is none."""
    shares: NDArray[np.float32]
    """(H, W) share of that class among the scores of all classes, 0..1."""
    names: tuple[str, ...]
    """The vocabulary."""
    scores: Tensor
    """(K, h, w), where and at the size they were computed."""
    panoptic: NDArray[np.int32] | None = None
    """(H, W) segment ids, 0 where there is none; None without panoptic output."""
    segments: list[Segment] | None = None
    """Segments as `id`, `isthing`, `category_id`; None without panoptic output."""

    @property
    def semantic(self) -> NDArray[np.float32]:
        """(K, H, W) scores, not normalised; large."""
        size = self.labels.shape
        scores = self.scores[None].cpu()
        return F.interpolate(scores, size=size, mode="bilinear", align_corners=False)[0].numpy()

    @cached_property
    def regions(self) -> list[Region]:
        """A region per segment, or per class that occurs; largest first."""
        if self.panoptic is None or self.segments is None:
            return class_regions(self.labels, self.shares, self.names)
        classes = {segment["id"]: segment["category_id"] for segment in self.segments}
        return segment_regions(self.panoptic, self.shares, classes, self.names)


class Predictor:
    """Segments images with one vocabulary."""

    def __init__(
        self,
        model: Segmenter,
        names: Sequence[str],
        *,
        short_side: int | None = 800,
        max_side: int = 1333,
        panoptic: bool = False,
        things: Sequence[int] = (),
        origin: Mapping[str, str] | None = None,
    ) -> None:
        """Embed the vocabulary.

        Args:
            model: keeps the last vocabulary, but not mode and outputs.
            names: class names, commas between synonyms.
            short_side: shorter side for the network in pixels; None keeps the image's size.
            max_side: largest longer side in pixels; not used when `short_side` is None.
            panoptic: find segments instead of one region per class.
            things: classes whose instances are segments of their own.
            origin: where the model comes from, for the records of results.

        Raises:
            DataError: a size, a name or a class is of the wrong form.
        """
        if max_side < 1 or (short_side is not None and short_side < 1):
            raise DataError(f"short_side {short_side}, max_side {max_side}: give 1 pixel or more")
        self.names = tuple(names)
        self.panoptic = panoptic
        self.origin = dict(origin or {})
        self._model = model
        self._things = tuple(things)
        self._size = {"short_side": short_side, "max_side": max_side}
        model.text_embeddings(self.names)

    @torch.no_grad()
    def __call__(self, image: NDArray[np.uint8]) -> Segmentation:
        """Segment one image, (H, W, 3) uint8 RGB.

        Raises:
            DataError: the image is of the wrong form.
        """
        _check_image(image)
        size = image.shape[:2]
        item = test_input(image, **self._size)
        # Scores stay at the network's size; what is enlarged later gives the same labels.
        item["height"], item["width"] = item["image"].shape[1:]
        if self.panoptic:
            shrink = min(1.0, (PANOPTIC_PIXELS / (size[0] * size[1])) ** 0.5)
            item["height"], item["width"] = (max(1, int(side * shrink)) for side in size)
        with self._ready():
            result = self._model([item])[0]
        scores = result["sem_seg"]
        if not self.panoptic:
            return Segmentation(*enlarge(scores, size), self.names, scores)
        found, segments = result["panoptic_seg"]
        ids = _enlarged_ids(found.cpu().numpy(), size)
        classes = np.full(max((s["id"] for s in segments), default=0) + 1, NOTHING, np.int32)
        for segment in segments:
            classes[segment["id"]] = segment["category_id"]
        labels, shares = enlarge(scores, size, classes[ids])
        return Segmentation(labels, shares, self.names, scores, ids, segments)

    @contextmanager
    def _ready(self) -> Iterator[None]:
        """Set vocabulary, mode and outputs; put mode and outputs back afterwards."""
        model = self._model
        training, outputs = model.training, model.panoptic_on
        model.eval()
        model.set_test_vocabulary(self.names, self._things)
        model.panoptic_on = self.panoptic
        try:
            yield
        finally:
            model.panoptic_on = outputs
            if training:
                model.train()


@dataclass(frozen=True)
class Loaded:
    """A model in evaluation mode, with what it was made of."""

    model: Segmenter
    params: Params
    weights: Path

    @property
    def training_names(self) -> tuple[str, ...] | None:
        """Classes it was trained with; None where the weights do not say."""
        return self.model.training_names

    def predictor(
        self,
        names: Sequence[str],
        *,
        panoptic: bool = False,
        stuff: Sequence[int] = (),
        short_side: int | None = None,
    ) -> Predictor:
        """Return what segments images with a vocabulary.

        Args:
            names: class names, commas between synonyms.
            panoptic: separate segments instead of one region per class.
            stuff: classes whose segments are joined (panoptic); all others are things.
            short_side: shorter side for the network in pixels; None takes the experiment's.
        """
        size = self.params.input.test
        side = short_side or size.short_side
        return Predictor(
            self.model,
            names,
            short_side=side,
            max_side=max(size.max_side, round(side * size.max_side / size.short_side)),
            panoptic=panoptic,
            things=[index for index in range(len(names)) if panoptic and index not in stuff],
            origin={"weights": str(self.weights), "experiment": self.params.experiment},
        )


def load(
    weights: Path | str | None, *, experiment: str | None = None, device: str | None = None
) -> Loaded:
    """Load a model; as `load_model`, but own weights say themselves what they are of.

    Args:
        weights: a checkpoint, or a model's folder or hub address as `load_model` takes them; None
            takes the miniature world's when it is there, and says so.
        experiment: a name or parameter file, as `load_model` takes it; None finds out from the
            weights.
        device: torch device; None takes a GPU when there is one.

    Raises:
        CheckpointError: the weights are missing, damaged, or of another model.
        ParamsError: it cannot be found out which experiment the weights are of.
    """
    whole = None if weights is None else _whole_model(weights)
    if whole is not None:
        params, path = whole
    else:
        path = _miniature() if weights is None else Path(weights)
        if not path.is_file():
            raise CheckpointError(f"--weights {path}: no such checkpoint file; mend the path")
        params = _params_of(path) if experiment is None else experiment_params(experiment)
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return Loaded(build.load_model(params, path, chosen), params, path)
    except RuntimeError as error:  # torch's answer to a device that is not there
        raise ParamsError(f"--device {chosen}: {str(error).splitlines()[0]}") from None


def load_model(
    experiment: str | Path | Params,
    weights: str | Path | None = None,
    device: str | torch.device = "cpu",
) -> Segmenter:
    """Build the model of an experiment, in evaluation mode.

    Args:
        experiment: a parameter file, or a name: `miniature`, or one of workflow/experiments.
            `name:variant` chooses a variant; otherwise it is the first. Or parameters themselves.
            Or a whole model without `weights`: a folder that `maftp export --hub` wrote, or such a
            folder on the hub, hf://owner/name[@revision].
        weights: a released checkpoint (.pth) or an own one (.safetensors); both hold CLIP's
            weights. None takes the pretrained CLIP and a segmentation head at random.
        device: where to put it.

    Raises:
        ParamsError: there is no such experiment or variant, or its parameters are wrong.
        CheckpointError: the weights are damaged or of another model.
        MaftpError: the pretrained CLIP is neither here nor can it be downloaded.
    """
    if weights is None and not isinstance(experiment, Params):
        whole = _whole_model(experiment)
        if whole is not None:
            return build.load_model(*whole, device)
    params = experiment if isinstance(experiment, Params) else experiment_params(experiment)
    return build.load_model(params, None if weights is None else Path(weights), device)


def segment(
    model: Segmenter,
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
    _check_image(image)
    names = _class_names(vocabulary)
    things = [things] if isinstance(things, str) else things
    predictor = Predictor(
        model,
        names,
        short_side=short_side,
        max_side=max_side,
        panoptic=panoptic,
        things=[_class_index(thing, names) for thing in things],
    )
    return predictor(image)


def experiment_params(experiment: str | Path) -> Params:
    """Return the parameters of one variant of an experiment; see `load_model`.

    Raises:
        ParamsError: there is no such experiment or variant, or its parameters are wrong.
    """
    path, variant = _find_experiment(str(experiment))
    overlays = [] if path.resolve() == DEFAULT_PARAMS.resolve() else [path]
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
    known = ", ".join(_experiments())
    raise ParamsError(
        f"experiment {experiment!r} is neither a parameter file nor a known name; known: {known}"
    )


def _experiments() -> list[str]:
    """Name the experiments that come with the package."""
    return [DEFAULT_EXPERIMENT, *sorted(path.stem for path in EXPERIMENTS.glob("*.yaml"))]


def _whole_model(source: str | Path) -> tuple[Params, Path] | None:
    """Return parameters and weights of a model's folder, here or on the hub; None for all else."""
    if str(source).startswith(SCHEME):
        folder = fetch(str(source))
    elif Path(source).is_dir() and str(source) not in _experiments():
        folder = Path(source)
    else:
        return None
    return read_folder(folder, experiment_params(DEFAULT_EXPERIMENT))


def _miniature() -> Path:
    for path in (MINIATURE, PROJECT_ROOT / MINIATURE):
        if path.is_file():
            logger.info("no --weights given; using the miniature world's model, %s", path)
            return path
    raise CheckpointError(
        f"no weights: {MINIATURE} is not there either; name a checkpoint with --weights, or train "
        "the miniature model with `make table`"
    )


def _params_of(weights: Path) -> Params:
    """Read the parameters of own weights: from the manifest beside them, else by their names."""
    manifest = weights.with_name(MANIFEST)
    if manifest.is_file():
        try:
            values = read_json(manifest, remedy="train the run")["params"]
        except (KeyError, TypeError) as error:
            raise ParamsError(f"{manifest}: no manifest of a run ({error!r})") from None
        return recorded_params(values, source=str(manifest))
    noted = read_metadata(weights)
    if "experiment" in noted:
        return experiment_params(":".join([noted["experiment"], noted.get("variant", "maftp")]))
    raise ParamsError(
        f"{weights}: the file does not say which experiment it is of; name it, such as "
        "--experiment maftp_base"
    )


def _check_image(image: NDArray[np.uint8]) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise DataError(
            f"image: expected (H, W, 3) uint8, found {image.shape} {image.dtype}; convert it to RGB"
        )
    if not image.size:
        raise DataError(f"image: {image.shape[0]} x {image.shape[1]} pixels; give one with some")


def _enlarged_ids(ids: NDArray[np.int32], size: tuple[int, int]) -> NDArray[np.int32]:
    if ids.shape == size:
        return ids
    return np.asarray(Image.fromarray(ids).resize(size[::-1], Image.Resampling.NEAREST))


def _class_names(vocabulary: Sequence[str] | str) -> list[str]:
    names = [vocabulary] if isinstance(vocabulary, str) else list(vocabulary)
    for name in names:
        if not isinstance(name, str) or not name.strip(", "):
            raise DataError(f"vocabulary: {name!r} is not a class name; give words, such as 'sky'")
    return names


def _class_index(thing: int | str, names: Sequence[str]) -> int:
    if not isinstance(thing, str) and not 0 <= int(thing) < len(names):
        raise DataError(f"thing class {thing}: the vocabulary has classes 0..{len(names) - 1}")
    if isinstance(thing, str):
        if thing not in names:
            raise DataError(f"thing class {thing!r} is not in the vocabulary; spell it as there")
        return names.index(thing)
    return int(thing)
