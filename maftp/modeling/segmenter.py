"""What MAFT+ and the frozen baseline share: input, vocabularies, parameter groups, results.

Follows Detectron2's contract of a meta-architecture: a list of dictionaries in, losses or a list of
dictionaries out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from detectron2.structures import ImageList
from torch import Tensor, nn

from maftp.data.vocabulary import seen_categories
from maftp.errors import DataError, MaftpError
from maftp.losses.criterion import SetCriterion
from maftp.modeling.clip_backbone import ClipBackbone
from maftp.modeling.label_map import label_map
from maftp.modeling.postprocessing import (
    Frame,
    InstanceQuality,
    MaskKind,
    confident_queries,
    instance_inference,
    panoptic_inference,
    semantic_inference,
)
from maftp.modeling.segmentation_head import SegmentationHead
from maftp.modeling.text_classifier import TEMPLATES, TextEmbeddings, digest, embed_vocabulary

BatchedInputs = Sequence[Mapping[str, Any]]
Result = dict[str, Any]
Targets = Sequence[Mapping[str, Tensor]]
SemanticOutput = Literal["scores", "labels", "nothing"]

SIZE_DIVISIBILITY = 32
NOT_SEEN = (
    "the ensemble weighs classes by whether they were seen in training; call "
    "set_training_vocabulary(names) first"
)
_KEPT_VOCABULARIES = 8


@dataclass(frozen=True)
class Normalisation:
    """Mean and deviation of R, G, B on the 0..255 scale."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class Inference:
    """How scores and masks become results."""

    post_process_first: bool | None
    """Resize masks (true) or scores (false); None: true with panoptic or instance output."""
    object_threshold: float
    overlap_threshold: float
    instance_quality: InstanceQuality = "probability"


class Segmenter(nn.Module):
    """An open-vocabulary segmenter over CLIP; a method gives `losses` and `scores`.

    `panoptic_on` and `instance_on` add `panoptic_seg` and `instances` to the results. They can be
    set at any time; `set_test_vocabulary` switches panoptic output on when it is given things.
    `semantic_output` says whether the results hold `sem_seg` scores, as Detectron2 has it, `labels`
    of the best classes, which need a hundredth of the memory, or nothing of the kind.
    """

    pixel_mean: Tensor
    pixel_std: Tensor
    teacher_prefix: ClassVar[str] = "backbone_t."
    """How the entries of a frozen copy of CLIP begin in released checkpoints."""
    released_parts: ClassVar[tuple[str, ...]] = ()
    """Prefixes of what a released checkpoint holds where that is not the whole model."""
    released_surplus: ClassVar[bool] = False
    """Released checkpoints may hold entries of parts that their authors removed."""
    trunk_prefix: ClassVar[str | tuple[str, ...]] = "backbone."
    """How the entries begin that learn at CLIP's rate."""
    takes_proposals: ClassVar[bool] = False
    """The head is that of another model, and stays frozen."""
    size_divisibility: ClassVar[int] = SIZE_DIVISIBILITY
    """Sides of the padded input are multiples of it."""
    mask_kind: ClassVar[MaskKind] = "logits"
    """What the masks hold that `scores` returns."""
    exportable: ClassVar[bool] = True
    """`scores` is the whole way from an image to its result."""

    def __init__(
        self,
        *,
        backbone: ClipBackbone,
        sem_seg_head: SegmentationHead,
        criterion: SetCriterion | None,
        normalisation: Normalisation,
        inference: Inference,
        templates: Sequence[str] = TEMPLATES,
        panoptic_on: bool = False,
    ) -> None:
        """Join the parts; without a criterion no head is trained."""
        super().__init__()
        self.backbone = backbone
        self.sem_seg_head = sem_seg_head
        self.criterion = criterion
        self.void_embedding = nn.Embedding(1, backbone.embed_dim)
        for name, value in (("mean", normalisation.mean), ("std", normalisation.std)):
            values = torch.tensor(value).view(3, 1, 1)
            self.register_buffer(f"pixel_{name}", values, persistent=False)
        self.inference = inference
        self.templates = tuple(templates)
        self.panoptic_on = self._panoptic_default = panoptic_on
        self.instance_on = False
        self.semantic_output: SemanticOutput = "scores"
        self.training_names: tuple[str, ...] | None = None
        self.proposal_names: tuple[str, ...] | None = None
        self.test_names: tuple[str, ...] | None = None
        self.things: frozenset[int] = frozenset()
        self._embeddings: dict[tuple[str, ...], TextEmbeddings] = {}
        self._seen: tuple[tuple[tuple[str, ...], tuple[str, ...]], Tensor] | None = None
        self.register_load_state_dict_post_hook(_forget_embeddings)

    @property
    def architecture(self) -> dict[str, Any]:
        """What weights of equal shapes may differ in; stored with them."""
        raise NotImplementedError

    @property
    def naming_clip(self) -> nn.Module:
        """The CLIP that names what lies under a mask."""
        return self.backbone

    @property
    def device(self) -> torch.device:
        """Where the model lies, and inputs are moved to."""
        return self.pixel_mean.device

    def forward(self, batched_inputs: BatchedInputs) -> dict[str, Tensor] | list[Result]:
        """Compute losses in training mode, results in evaluation mode.

        Args:
            batched_inputs: per image `image` (3, H0, W0) RGB in 0..255; optionally `height` and
                `width` of the output, and `canvas` (see `preprocess`); in training `instances` with
                `gt_classes` and `gt_masks`: (G, H0, W0), or an object whose `tensor` that is.

        Returns:
            In training weighted losses by name, to be summed. Otherwise per image `sem_seg`
            (K, height, width), or `labels`, and `panoptic_seg` (ids, segments) where that is on.
        """
        names = self.training_names if self.training else self.test_names
        text, rows = self.classifier(names)
        images = self.preprocess(batched_inputs)  # (B, 3, H, W)
        if self.training:
            targets = self.targets(batched_inputs, tuple(images.tensor.shape[-2:]))
            return self.losses(images.tensor, text, rows, targets)
        return self.infer(batched_inputs, images, text, rows)

    def infer(
        self, batched_inputs: BatchedInputs, images: ImageList, text: Tensor, rows: Tensor
    ) -> list[Result]:
        """Return the results of `forward` from normalised images."""
        return self.results(*self.proposals(batched_inputs, images, text, rows))

    def proposals(
        self, batched_inputs: BatchedInputs, images: ImageList, text: Tensor, rows: Tensor
    ) -> tuple[BatchedInputs, ImageList, Tensor, Tensor]:
        """Return what `results` takes: items, the images that masks lie on, scores and masks."""
        scores, masks = self.scores(images.tensor, text, rows, self.seen())
        return batched_inputs, images, scores, masks

    def losses(
        self, images: Tensor, text: Tensor, rows: Tensor, targets: Targets
    ) -> dict[str, Tensor]:
        """Return weighted losses by name, to be summed.

        Args:
            images: (B, 3, H, W), normalised and padded.
            text: (S + 1, D) unit rows, void last.
            rows: (K, n) int64, the rows of `text` that belong to each class.
            targets: per image labels (G,) int64 and masks (G, H, W) bool.
        """
        raise NotImplementedError

    def scores(
        self, images: Tensor, text: Tensor, rows: Tensor, seen: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return log scores (B, Q, K + 1), void last, and mask logits (B, Q, H/4, W/4).

        Args:
            images: (B, 3, H, W), normalised and padded.
            text: (S + 1, D) unit rows, void last.
            rows: (K, n) int64, the rows of `text` that belong to each class.
            seen: (K,) bool, classes that training knew; None where that is not known.
        """
        raise NotImplementedError

    def set_training_vocabulary(
        self, names: Sequence[str], embeddings: TextEmbeddings | None = None
    ) -> None:
        """Set the classes of the training targets, and size the criterion for them.

        Args:
            names: one per class, commas between synonyms.
            embeddings: made earlier for the same names and CLIP; None computes them when needed.
        """
        self.training_names = tuple(names)
        self._remember(self.training_names, embeddings)
        if self.criterion is not None and self.criterion.num_classes != len(names):
            weight = self.criterion.empty_weight.new_ones(len(names) + 1)
            weight[-1] = self.criterion.empty_weight[-1]
            self.criterion.num_classes = len(names)
            self.criterion.empty_weight = weight

    def set_test_vocabulary(
        self,
        names: Sequence[str],
        things: Collection[int] = (),
        embeddings: TextEmbeddings | None = None,
    ) -> None:
        """Set the classes of inference.

        Args:
            names: one per class, commas between synonyms.
            things: indices of the classes that are things; giving any switches panoptic output on,
                none puts it back to what the experiment says.
            embeddings: made earlier for the same names and CLIP; None computes them when needed.
        """
        wrong = [index for index in things if not 0 <= index < len(names)]
        if wrong:
            raise DataError(
                f"thing class {wrong[0]} is not in a vocabulary of {len(names)} classes"
            )
        self.test_names = tuple(names)
        self.things = frozenset(things)
        self.panoptic_on = bool(self.things) or self._panoptic_default
        self._remember(self.test_names, embeddings)

    def text_embeddings(self, names: tuple[str, ...]) -> TextEmbeddings:
        """Return the classifier of a vocabulary, on the model's device; computed once."""
        found = self._embeddings.pop(names, None)
        if found is None:
            with torch.inference_mode(False):  # kept for training steps that follow an evaluation
                found = embed_vocabulary(self.backbone, names, templates=self.templates)
        if found.weight.device != self.device:
            found = replace(found, weight=found.weight.to(self.device))
        self._embeddings[names] = found  # the newest last
        while len(self._embeddings) > _KEPT_VOCABULARIES:
            self._embeddings.pop(next(iter(self._embeddings)))
        return found

    def classifier(self, names: tuple[str, ...] | None) -> tuple[Tensor, Tensor]:
        """Return the text with void appended, (S + 1, D) unit rows, and rows of classes (K, n)."""
        if names is None:
            kind = "training" if self.training else "test"
            raise MaftpError(f"no {kind} vocabulary; call set_{kind}_vocabulary(names) first")
        embeddings = self.text_embeddings(names)
        return self.with_void(embeddings.weight), embeddings.rows

    def with_void(self, text: Tensor) -> Tensor:
        """Append the learned row of void to text (S, D)."""
        return torch.cat([text, F.normalize(self.void_embedding.weight, dim=-1)])

    def seen(self) -> Tensor | None:
        """Tell which test classes share a synonym with a training class, (K,) bool.

        Training is that of the head: where it came from another run, that one's classes count.
        None where they are not known.
        """
        names = self.proposal_names or self.training_names
        if names is None or self.test_names is None:
            return None
        wanted = self.test_names, names
        if self._seen is None or self._seen[0] != wanted or self._seen[1].device != self.device:
            self._seen = wanted, torch.tensor(seen_categories(*wanted), device=self.device)
        return self._seen[1]

    def known_seen(self) -> Tensor:
        """Return `seen`, for an ensemble that cannot do without.

        Raises:
            MaftpError: the training classes are not known.
        """
        seen = self.seen()
        if seen is None:
            raise MaftpError(NOT_SEEN)
        return seen

    def _remember(self, names: tuple[str, ...], embeddings: TextEmbeddings | None) -> None:
        if embeddings is None:
            return
        if embeddings.names != names:
            raise DataError("text embeddings are of another vocabulary; embed this one again")
        if embeddings.templates_digest not in ("", digest(self.templates)):
            raise DataError("text embeddings were made with other sentences; embed them again")
        if embeddings.clip_digest not in ("", self.backbone.text_digest()):
            raise DataError("text embeddings were made with another CLIP; embed them again")
        self._embeddings[names] = embeddings

    def parameter_groups(self) -> dict[str, list[tuple[str, nn.Parameter]]]:
        """Return the trainable parameters: CLIP's trunk as "backbone", the rest as "head"."""
        groups: dict[str, list[tuple[str, nn.Parameter]]] = {"backbone": [], "head": []}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                group = "backbone" if name.startswith(self.trunk_prefix) else "head"
                groups[group].append((name, parameter))
        return groups

    def trainable_names(self) -> list[str]:
        """Return the names of all trainable parameters."""
        return [name for group in self.parameter_groups().values() for name, _ in group]

    def targets(self, batched_inputs: BatchedInputs, size: tuple[int, int]) -> Targets:
        """Pad the ground truth to the batch's size: labels (G,) int64, masks (G, H, W) bool."""
        targets = []
        for item in batched_inputs:
            instances = item["instances"].to(self.device, non_blocking=True)
            masks = instances.gt_masks
            masks = masks if isinstance(masks, Tensor) else masks.tensor
            padding = (0, size[1] - masks.shape[-1], 0, size[0] - masks.shape[-2])
            padded = F.pad(masks.bool(), padding)
            targets.append({"labels": instances.gt_classes.long(), "masks": padded})
        return targets

    def preprocess(self, batched_inputs: BatchedInputs) -> ImageList:
        """Normalise the images and pad them at right and bottom to one size.

        Pixels travel to the device as they are, in bytes as a rule. An item's `canvas`, a height
        and width, asks for at least that size.
        """
        sizes = [tuple(item["image"].shape[-2:]) for item in batched_inputs]
        wanted = [*sizes, *(item["canvas"] for item in batched_inputs if "canvas" in item)]
        height, width = (
            -(-max(sides) // self.size_divisibility) * self.size_divisibility
            for sides in zip(*wanted, strict=True)
        )
        # The mean colour outside the images becomes zero.
        padded = self.pixel_mean.expand(len(sizes), -1, height, width).clone()
        for place, item, (rows, columns) in zip(padded, batched_inputs, sizes, strict=True):
            image = item["image"].to(self.device, non_blocking=True)
            place[:, :rows, :columns] = image
        return ImageList((padded - self.pixel_mean) / self.pixel_std, sizes)

    def results(
        self, batched_inputs: BatchedInputs, images: ImageList, scores: Tensor, masks: Tensor
    ) -> list[Result]:
        """Turn log scores (B, Q, K + 1) and masks (B, Q, H/4, W/4) into results per image."""
        canvas = tuple(images.tensor.shape[-2:])
        results = []
        for index, item in enumerate(batched_inputs):
            image_size = tuple(images.image_sizes[index])
            size = (item.get("height", image_size[0]), item.get("width", image_size[1]))
            frame = Frame(canvas=canvas, image_size=image_size, size=size)
            results.append(self._result(scores[index], masks[index], frame))
        return results

    def _result(self, scores: Tensor, masks: Tensor, frame: Frame) -> Result:
        result = self._semantic(scores, masks, frame)
        if self.panoptic_on:
            # Other queries cannot win a pixel: their masks are not even resized.
            keep = confident_queries(scores, self.inference.object_threshold)
            result["panoptic_seg"] = panoptic_inference(
                scores[keep],
                frame.fit(frame.upsample(masks[keep])),
                self.things,
                object_threshold=self.inference.object_threshold,
                overlap_threshold=self.inference.overlap_threshold,
                kind=self.mask_kind,
            )
        if self.instance_on:
            things = self.things if self.panoptic_on else None
            final = frame.fit(frame.upsample(masks))
            quality = self.inference.instance_quality
            result["instances"] = instance_inference(
                scores, final, things, quality=quality, kind=self.mask_kind
            )
        return result

    def _semantic(self, scores: Tensor, masks: Tensor, frame: Frame) -> Result:
        if self.semantic_output == "nothing":
            return {}
        first = self.inference.post_process_first
        if first is None:
            first = self.panoptic_on or self.instance_on
        if self.semantic_output == "labels":
            kind = self.mask_kind
            return {"labels": label_map(scores, masks, frame, masks_first=first, kind=kind)}
        upsampled = frame.upsample(masks)  # (Q, H, W)
        if first:
            upsampled = frame.fit(upsampled)
        semantic = semantic_inference(scores, upsampled, kind=self.mask_kind)
        return {"sem_seg": semantic if first else frame.fit(semantic)}


def _forget_embeddings(model: Segmenter, incompatible: object) -> None:
    """Other weights have other text embeddings."""
    model._embeddings.clear()
