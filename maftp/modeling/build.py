"""From parameters to a model: the only place that chooses between the architectures."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maftp.data.catalog import load_catalog
from maftp.errors import ParamsError
from maftp.losses.criterion import SetCriterion
from maftp.modeling.checkpoint import load_teacher, load_weights
from maftp.modeling.clip_backbone import ClipBackbone, find_pretrained
from maftp.modeling.content_dependent_transfer import ContentDependentTransfer
from maftp.modeling.fcclip import FCCLIP
from maftp.modeling.maft_plus import LossWeights, MaftPlus
from maftp.modeling.mask_adapter import AdaptedSegmenter
from maftp.modeling.maskclippp import MaskCLIPpp
from maftp.modeling.maskclippp_eva import EvaMaskCLIPpp
from maftp.modeling.ovrcoat import OVRCOAT
from maftp.modeling.segmentation_head import SegmentationHead
from maftp.modeling.segmenter import SIZE_DIVISIBILITY, Inference, Normalisation, Segmenter
from maftp.modeling.text_classifier import TEMPLATES

if TYPE_CHECKING:
    import torch

    from maftp.config import Params

METHODS: dict[str, Callable[..., Segmenter]] = {
    "fcclip": FCCLIP.from_params,
    "ovrcoat": OVRCOAT.from_params,
    "maskclippp": lambda params, **parts: (
        EvaMaskCLIPpp if params.model.maskclippp.student == "eva02_l" else MaskCLIPpp
    ).from_params(params, **parts),
    "mask_adapter": AdaptedSegmenter.from_params,
}
"""By `model.name`, what takes parameters and the shared parts; MAFT+ needs a teacher besides."""


def build_model(
    params: Params,
    *,
    num_training_classes: int,
    load_clip: Path | None,
    teacher: bool,
    whole_teacher: bool = False,
) -> Segmenter:
    """Build the model of `params.model` on the CPU, or on torch's default device.

    Args:
        params: parameters of one variant.
        num_training_classes: K of the criterion; `set_training_vocabulary` may change it.
        load_clip: CLIP weights (.safetensors) for student and teacher; None starts at random, for a
            checkpoint to be loaded afterwards.
        teacher: hold the original CLIP's trunk, as training with compensation needs.
        whole_teacher: hold its unused text tower and head too, as released checkpoints do.

    Raises:
        ParamsError: training images are too small for compensation, or CLIP is unknown.
    """
    backbone = ClipBackbone.from_params(params, weights=load_clip)
    parts = _shared_parts(params, backbone, num_training_classes)
    if params.model.name != "maftp":
        return METHODS[params.model.name](params, **parts)
    compensated = teacher and params.train.rc_weight > 0
    if compensated:
        check_training_width(params)
    frozen = backbone.frozen_copy(trunk_only=not whole_teacher) if compensated else None
    if params.execution.gradient_checkpointing:
        backbone.checkpoint_trunk()
    return MaftPlus(
        teacher=frozen,
        cdt=(
            ContentDependentTransfer.from_params(params, embed_dim=backbone.embed_dim)
            if params.model.cdt.enabled
            else None
        ),
        loss_weights=LossWeights(
            mask_aware=params.train.mask_aware_weight,
            compensation=params.train.rc_weight,
            scales=params.train.rc_scales,
        ),
        trust_weight=params.model.trust_weight,
        **parts,
    )


def load_model(
    params: Params, weights: Path | None, device: str | torch.device = "cpu"
) -> Segmenter:
    """Build the model of `params.model` for inference and fill it.

    Args:
        params: parameters of one variant.
        weights: a released checkpoint (.pth) or an own one (.safetensors); both hold CLIP's
            weights. None takes the pretrained CLIP and a segmentation head at random.
        device: where to put it.

    Raises:
        CheckpointError: the weights are damaged or of another model.
        MaftpError: the pretrained CLIP is neither here nor can it be downloaded.
    """
    load_clip = find_pretrained(params.clip) if weights is None else None
    model = build_model(params, num_training_classes=1, load_clip=load_clip, teacher=False)
    if weights is not None:
        noted = load_weights(model, weights)
        if noted.get("training_vocabulary") is not None:
            model.set_training_vocabulary(noted["training_vocabulary"])
        proposing = noted.get("proposal_vocabulary")
        model.proposal_names = None if proposing is None else tuple(proposing)
    if isinstance(model, MaftPlus):
        model.make_teacher = partial(_make_teacher, params, weights)
    return model.to(device).eval()


def _make_teacher(params: Params, weights: Path | None) -> ClipBackbone:
    """Take the teacher from the checkpoint when it holds one, else the pretrained CLIP."""
    if weights is not None:
        teacher = ClipBackbone.from_params(params, weights=None).frozen_copy(trunk_only=True)
        if load_teacher(teacher, weights):
            return teacher
    return build_teacher(params)


def build_teacher(params: Params) -> ClipBackbone:
    """Build the frozen trunk of the pretrained CLIP of `params`."""
    weights = find_pretrained(params.clip)
    return ClipBackbone.from_params(params, weights=weights).frozen_copy(trunk_only=True)


def check_training_width(params: Params) -> None:
    """Refuse training images whose stride-32 map is narrower than the compensation's largest scale.

    Raises:
        ParamsError: names the keys.
    """
    train = params.input.train
    cropped = train.mapper != "semantic"
    side = train.crop_size if cropped else min(train.short_side, train.max_side)
    width = SIZE_DIVISIBILITY * math.ceil(side / SIZE_DIVISIBILITY)
    wanted = SIZE_DIVISIBILITY * max(params.train.rc_scales)
    if width < wanted:
        key = "input.train.crop_size" if cropped else "input.train.short_side"
        raise ParamsError(
            f"{key}: training images can be {width} pixels wide, but representation compensation "
            f"with train.rc_scales {list(params.train.rc_scales)} needs {wanted}; raise it, leave "
            "out the large scales, or set train.rc_weight to 0"
        )


def _trained_on_segments(params: Params) -> bool:
    """Tell whether the training set is a panoptic one, as its entry in the catalog says.

    Weights are also used where the catalog of their own data is not; there the answer is no.
    """
    own = params.data.own
    catalog = load_catalog(own=own if own and Path(own).is_file() else None)
    entry = catalog.datasets.get(params.data.train)
    return entry is not None and entry.kind == "panoptic"


def _shared_parts(
    params: Params, backbone: ClipBackbone, num_training_classes: int
) -> dict[str, Any]:
    """Build the arguments that all methods share."""
    evaluate = params.evaluate
    return {
        "backbone": backbone,
        "sem_seg_head": SegmentationHead.from_params(
            params, in_channels=backbone.channels, embed_dim=backbone.embed_dim
        ),
        "criterion": SetCriterion.from_params(params, num_classes=num_training_classes),
        "normalisation": Normalisation(mean=params.input.pixel_mean, std=params.input.pixel_std),
        "inference": Inference(
            post_process_first=evaluate.post_process_first,
            object_threshold=evaluate.object_threshold,
            overlap_threshold=evaluate.overlap_threshold,
            instance_quality=evaluate.instance_quality,
        ),
        "templates": TEMPLATES[: params.clip.templates],
        "panoptic_on": _trained_on_segments(params),
    }
