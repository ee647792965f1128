"""CLIP through open_clip: dense ConvNeXt features, the visual head, and the text encoder."""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import open_clip
import torch
from torch import Tensor, nn
from torch.func import functional_call

from maftp.errors import CheckpointError, MaftpError, ParamsError
from maftp.files import atomic_path, find_file
from maftp.modeling.checkpoint import clip_entries, fit_state
from maftp.modeling.checkpoint_file import read_state
from maftp.modeling.convnext import adopt, cast_at_once
from maftp.modeling.tensor_files import save_tensors

if TYPE_CHECKING:
    from maftp.blocks import Clip
    from maftp.config import Params

logger = logging.getLogger(__name__)

STAGES = ("res2", "res3", "res4", "res5")


class ClipBackbone(nn.Module):
    """An open_clip model with a ConvNeXt trunk, mounted at `clip_model` as in released checkpoints.

    Both towers stay in evaluation mode whatever `train()` says, so that no residual block is
    dropped and one pass serves all losses. With `stochastic_depth` the trunk follows `train()`.
    """

    def __init__(
        self, *, clip_model: nn.Module, tokenizer: open_clip.SimpleTokenizer, stochastic_depth: bool
    ) -> None:
        """Wrap a CLIP model; nothing is trainable until `unfreeze_trunk`.

        Raises:
            ParamsError: the visual tower is not a ConvNeXt of timm.
        """
        super().__init__()
        trunk = getattr(clip_model.visual, "trunk", None)
        if not hasattr(trunk, "stages") or not hasattr(trunk, "norm_pre"):
            raise ParamsError(
                f"clip.model: the visual tower is a {type(trunk or clip_model.visual).__name__}; "
                "choose an open_clip model with a ConvNeXt tower"
            )
        adopt(trunk)
        self.clip_model = clip_model
        self.tokenizer = tokenizer
        self.stochastic_depth = stochastic_depth
        self.channels = {
            stage: info["num_chs"] for stage, info in zip(STAGES, trunk.feature_info, strict=True)
        }
        self.requires_grad_(False)
        self.train(False)

    @classmethod
    def from_params(cls, params: Params, *, weights: Path | None) -> ClipBackbone:
        """Build the CLIP of `params.clip`; without `weights` (.safetensors) it starts at random.

        Raises:
            ParamsError: open_clip does not know the model, or its configuration file is missing.
            CheckpointError: `weights` is unreadable or of another model.
        """
        clip_model = create_clip(params.clip)
        if weights is not None:
            load_clip_weights(clip_model, weights)
        return cls(
            clip_model=clip_model,
            tokenizer=open_clip.get_tokenizer(params.clip.model),
            stochastic_depth=params.clip.stochastic_depth,
        )

    @property
    def logit_scale(self) -> Tensor:
        """CLIP's logit scale, a frozen scalar."""
        return self.clip_model.logit_scale

    @property
    def embed_dim(self) -> int:
        """Width D of the joint space."""
        return self.clip_model.text_projection.shape[1]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Compute res2..res5 (B, C_i, H/s, W/s), s = 4, 8, 16, 32, of images (B, 3, H, W)."""
        return trunk_features(self.clip_model.visual, images)

    def visual_head(self, features: Tensor) -> Tensor:
        """Map pooled or dense features (..., C5) to the joint space (..., D), not normalised."""
        return joint_embedding(self.clip_model.visual, features)

    @torch.no_grad()
    def encode_text(self, sentences: Sequence[str]) -> Tensor:
        """Embed sentences with open_clip's `encode_text`; (n, D) float32, not normalised."""
        clip = self.clip_model
        device = clip.positional_embedding.device
        tokens = self.tokenizer(list(sentences)).to(device)
        tower = _TextTower(clip)
        with torch.autocast(device_type=device.type, enabled=False):
            if clip.text_pool_type != "argmax" or clip.attn_mask is None:
                return tower(tokens)
            # Attention is causal and the state is read at the end-of-text token: what follows the
            # longest sentence cannot matter.
            length = int(tokens.argmax(-1).max()) + 1
            shorter = {
                "clip.positional_embedding": clip.positional_embedding[:length],
                "clip.attn_mask": clip.attn_mask[:length, :length],
            }
            return functional_call(tower, shorter, (tokens[:, :length],))

    def text_digest(self) -> str:
        """Return a SHA-256 of the text tower's weights, which the text embeddings depend on."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.clip_model.state_dict().items()):
            if not name.startswith("visual.") and name != "logit_scale":
                digest.update(name.encode())
                digest.update(tensor.detach().cpu().float().contiguous().numpy())
        return digest.hexdigest()

    def trainable_modules(self) -> list[nn.Module]:
        """The parts that MAFT+ fine-tunes: stem, stages and the (empty) norm before the head."""
        trunk = self.clip_model.visual.trunk
        return [trunk.stem, trunk.stages, trunk.norm_pre]

    def unfreeze_trunk(self) -> None:
        """Let stem and stages be trained; norm and projection of the head stay frozen."""
        for module in self.trainable_modules():
            module.requires_grad_(True)

    def checkpoint_trunk(self) -> None:
        """Keep no inner activations of the stages for the backward pass, but compute them anew."""
        self.clip_model.visual.trunk.set_grad_checkpointing(True)

    def frozen_copy(self, *, trunk_only: bool) -> ClipBackbone:
        """Return a frozen copy, a teacher; `trunk_only` leaves out the text tower and the head."""
        clip_model = _trunk_of(self.clip_model) if trunk_only else self.clip_model
        return ClipBackbone(
            clip_model=copy.deepcopy(clip_model),
            tokenizer=self.tokenizer,
            stochastic_depth=self.stochastic_depth,
        )

    def train(self, mode: bool = True) -> ClipBackbone:
        """Keep evaluation mode, except for the trunk's when stochastic depth is asked for."""
        super().train(False)
        if self.stochastic_depth:
            self.clip_model.visual.trunk.train(mode)
        return self


def trunk_features(visual: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Compute res2..res5 of a visual tower; see `ClipBackbone.forward`."""
    with cast_at_once(visual.trunk, images.device.type):
        maps = visual.trunk.forward_intermediates(images, norm=True, intermediates_only=True)
    return dict(zip(STAGES, maps, strict=True))


def joint_embedding(visual: nn.Module, features: Tensor) -> Tensor:
    """Map features (..., C5) with the head of a visual tower; see `ClipBackbone.visual_head`."""
    vectors = features.flatten(0, -2)[..., None, None]  # (n, C5, 1, 1)
    return visual.head(visual.trunk.forward_head(vectors)).unflatten(0, features.shape[:-1])


class _TextTower(nn.Module):
    """Gives `functional_call` open_clip's `encode_text` as a forward."""

    def __init__(self, clip: nn.Module) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, tokens: Tensor) -> Tensor:
        return self.clip.encode_text(tokens).float()


def _trunk_of(clip_model: nn.Module) -> nn.Module:
    """Return a module that holds nothing but the trunk of `clip_model`, under the same names."""
    bare = nn.Module()
    bare.visual = nn.Module()
    bare.visual.trunk = clip_model.visual.trunk
    return bare


def create_clip(clip: Clip) -> open_clip.CLIP:
    """Create the open_clip model of a parameter block with random weights.

    Raises:
        ParamsError: open_clip does not know the model, or its configuration file is missing.
    """
    if clip.config is not None:
        _add_config(clip.config)
    configuration = open_clip.get_model_config(clip.model)
    if configuration is None:
        raise ParamsError(
            f"clip.model: open_clip has no model {clip.model!r}; choose one of "
            "open_clip.list_models(), or name its file in clip.config"
        )
    if not set(configuration) <= {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu"}:
        raise ParamsError(
            f"clip.model: {clip.model!r} is not a plain CLIP model; choose one with a ConvNeXt "
            "tower"
        )
    try:
        return open_clip.CLIP(**configuration)
    except (TypeError, RuntimeError) as error:
        raise ParamsError(f"clip.model: open_clip cannot build {clip.model!r}: {error}") from None


def _add_config(name: str) -> None:
    """Make an open_clip model file known; its stem is the model's name."""
    path = find_file(name)
    if path is None:
        raise ParamsError(f"clip.config: no file {name}; give an open_clip model file")
    try:
        open_clip.add_model_config(path)
    except ValueError as error:
        raise ParamsError(f"clip.config: {path} is not JSON ({error}); mend the file") from None


def load_clip_weights(clip_model: nn.Module, path: Path) -> None:
    """Load strictly an open_clip weight file, or the CLIP in a checkpoint of a whole model.

    Raises:
        CheckpointError: names the file and what does not fit.
    """
    found = clip_entries(read_state(path))
    state = fit_state(found, clip_model.state_dict(), source=path, model="this CLIP model")
    clip_model.load_state_dict(state)


def find_pretrained(clip: Clip) -> Path:
    """Return the file of the pretrained CLIP weights.

    Raises:
        MaftpError: there is no such file, and `clip.pretrained` is not a tag of the model.
    """
    path = find_file(clip.pretrained)
    if path is not None:
        return path
    if Path(clip.pretrained).suffix:
        raise CheckpointError(
            f"{clip.pretrained}: no such CLIP weight file; make it, or set clip.pretrained"
        )
    configuration = open_clip.get_pretrained_cfg(clip.model, clip.pretrained)
    if not configuration:
        raise ParamsError(
            f"clip.pretrained: {clip.pretrained!r} is neither a file nor an open_clip tag of "
            f"{clip.model}; tags: {', '.join(open_clip.list_pretrained_tags_by_model(clip.model))}"
        )
    try:
        return Path(open_clip.download_pretrained(configuration))
    except (OSError, RuntimeError, ValueError) as error:
        logger.debug("download of %s failed: %s", clip.pretrained, error)
        raise MaftpError(
            f"clip.pretrained: the weights {clip.pretrained!r} of {clip.model} could not be "
            "downloaded; connect to the network, or name a local weight file"
        ) from None


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
