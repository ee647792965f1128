"""CLIP's weights as one checked .safetensors file, whatever form they come in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from maftp.files import atomic_path
from maftp.modeling.clip_backbone import create_clip, find_pretrained, load_clip_weights
from maftp.modeling.tensor_files import save_tensors

if TYPE_CHECKING:
    from maftp.blocks import Clip


def fetch_clip(clip: Clip, out: Path) -> None:
    """Write the pretrained weights of `clip` to `out`, float32, every entry and shape checked.

    Args:
        clip: the parameter block; `pretrained` is a local file or an open_clip tag.
        out: .safetensors file to write, atomically.

    Raises:
        MaftpError: the weights are not to be had, or do not fit the model.
    """
    model = create_clip(clip)
    load_clip_weights(model, find_pretrained(clip))
    state = {name: tensor.float() for name, tensor in model.state_dict().items()}
    noted = {"model": clip.model, "pretrained": clip.pretrained}
    with atomic_path(out) as temporary:
        save_tensors(temporary, state, key="clip", noted=noted)
