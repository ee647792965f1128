"""What a training takes from other checkpoints: the model that proposes masks, and its start."""

from __future__ import annotations

from pathlib import Path

from maftp.errors import CheckpointError
from maftp.modeling.checkpoint import fit_state, load_weights
from maftp.modeling.checkpoint_file import read_metadata, read_state
from maftp.modeling.segmenter import Segmenter

PARTS = ("backbone.clip_model.visual.", "sem_seg_head.", "void_embedding.", "cdt.")
"""What is taken. The text tower stays that of the pretrained CLIP, from which it never differs."""
_ADAPTER = "mask_adapter."


def load_proposals(model: Segmenter, path: Path) -> None:
    """Fill the proposing part of a model from the checkpoint of a MAFT+ or an FC-CLIP.

    Its training classes are noted: they are what the head has seen.

    Args:
        model: the model to fill in place.
        path: own or released weights.

    Raises:
        CheckpointError: the file is damaged, or an entry is missing, left over or of another shape.
    """
    _load_parts(model, path, PARTS, what="the proposing part")
    names = read_metadata(path).get("training_vocabulary")
    model.proposal_names = None if names is None else tuple(names)


def load_start(model: Segmenter, path: Path) -> None:
    """Fill a model from the checkpoint that its training starts from.

    Of a Mask-Adapter only the adapter is taken, from its earlier phase: the void embedding of the
    proposing model belongs to the head. The teacher stays the pretrained CLIP where the file has
    none.

    Raises:
        CheckpointError: the file is damaged, or an entry is missing, left over or of another shape.
    """
    if any(name.startswith(_ADAPTER) for name in model.state_dict()):
        _load_parts(model, path, (_ADAPTER,), what="the adapter")
    else:
        load_weights(model, path)


def _load_parts(model: Segmenter, path: Path, parts: tuple[str, ...], *, what: str) -> None:
    own = model.state_dict()
    wanted = {name: tensor for name, tensor in own.items() if name.startswith(parts)}
    if not wanted:
        raise CheckpointError(
            f"{path}: a {model.architecture['model']} model has no place for {what}; leave "
            "train.proposals out, or choose the method they are for"
        )
    mine = tuple(part for part in parts if any(name.startswith(part) for name in wanted))
    state = {name: tensor for name, tensor in read_state(path).items() if name.startswith(mine)}
    model.load_state_dict(own | fit_state(state, wanted, source=path, model=what))
