"""MaskCLIP++ with EVA02-L as student, and its text tower: the best of the published models.

Masks become tokens of the student's last blocks (`eva_tower`) instead of pooling weights. The
student has a text tower of its own, part of which is trained; its similarity with one sentence per
synonym is scaled and shifted by two linear maps without a non-linearity between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import open_clip
import torch
import torch.nn.functional as F
from detectron2.structures import ImageList
from open_clip.transformer import TextTransformer
from torch import Tensor, nn

from maftp.data.vocabulary import split_synonyms
from maftp.errors import MaftpError
from maftp.losses.balanced_masks import balanced_mask_loss
from maftp.losses.batch_share import current_share
from maftp.modeling.checkpoint import fit_state
from maftp.modeling.checkpoint_file import read_state
from maftp.modeling.eva_tower import EvaTower
from maftp.modeling.mask_classification import MAX_LOGIT_SCALE, best_rows
from maftp.modeling.maskclippp import MaskCLIPpp, draw_synonyms, naming_parts, student_masks
from maftp.modeling.postprocessing import resize_maps
from maftp.modeling.segmenter import Segmenter, Targets
from maftp.modeling.text_classifier import CHUNK, TEMPLATES

if TYPE_CHECKING:
    from maftp.config import Params

TEMPLATE = TEMPLATES[0]
"""The student's only sentence; the proposing model has all of them."""


class EvaEncoder(nn.Module):
    """The visual tower, of which the queries, values and positions are trained."""

    def __init__(self, tower: EvaTower, *, mask_blocks: int) -> None:
        """Take over the tower; its last `mask_blocks` blocks have mask tokens."""
        super().__init__()
        self.proxy = tower  # its name in released checkpoints
        self.proxy.requires_grad_(False)
        self.mask_logit_scale = nn.Parameter(
            torch.full((mask_blocks, tower.blocks[0].attn.heads), -5.0)
        )
        tower.pos_embed.requires_grad_(True)
        for block in tower.blocks:
            block.attn.q_proj.requires_grad_(True)
            block.attn.v_proj.requires_grad_(True)

    def forward(self, images: Tensor, weights: Tensor) -> Tensor:
        """Embed what lies under masks (B, Q, h, w) of images (B, 3, H, W), (B, Q, D)."""
        return self.proxy(images, weights, self.mask_logit_scale)


class EvaText(nn.Module):
    """The text tower, of which attention's packed projection, LayerNorms and MLPs are trained.

    The public rule names attention alone and forgets to freeze the rest of a block.
    """

    def __init__(self, tower: TextTransformer) -> None:
        """Take over the tower."""
        super().__init__()
        self.proxy = tower
        self.logit_scale = nn.Parameter(torch.tensor(2.6593), requires_grad=False)
        self.tokenizer = open_clip.SimpleTokenizer(context_length=tower.context_length)
        tower.requires_grad_(False)
        tower.positional_embedding.requires_grad_(True)
        for block in tower.transformer.resblocks:
            for part in (block.ln_1, block.ln_2, block.mlp):
                part.requires_grad_(True)
            block.attn.in_proj_weight.requires_grad_(True)

    def forward(self, synonyms: Sequence[str]) -> Tensor:
        """Embed synonyms, (n, D) unit rows."""
        tokens = self.tokenizer([TEMPLATE.format(synonym) for synonym in synonyms])
        tokens = tokens.to(self.logit_scale.device)
        return F.normalize(self.proxy(tokens), dim=-1)

    @property
    def scale(self) -> Tensor:
        """What similarities are multiplied with."""
        return self.logit_scale.exp().clamp(max=MAX_LOGIT_SCALE)


class SimilarityMap(nn.Module):
    """PSM of the EVA models: an affine map of the similarities with the sentences of a synonym."""

    def __init__(self, *, sentences: int, width: int = 768) -> None:
        """Set the number of sentences per synonym and the width between the two maps."""
        super().__init__()
        self.corr_proj_in = nn.Sequential(nn.Linear(sentences, width))
        self.corr_proj_out = nn.Sequential(nn.Linear(width, 1))

    def forward(self, similarity: Tensor) -> Tensor:
        """Map (..., sentences) to (...)."""
        return self.corr_proj_out(self.corr_proj_in(similarity))[..., 0]


class EvaMaskCLIPpp(MaskCLIPpp):
    """An EVA02 student over the masks of a frozen segmenter."""

    trunk_prefix = ("visual_encoder.proxy.", "text_encoder.")
    released_parts = ("visual_encoder.", "text_encoder.", "psm.")
    size_divisibility = 14

    def __init__(self, *, text_encoder: EvaText, **parts: Any) -> None:
        """Join the parts; see `MaskCLIPpp`.

        Args:
            text_encoder: the student's own.
            parts: the arguments of `MaskCLIPpp`.
        """
        super().__init__(**parts)
        self.text_encoder = text_encoder
        self._text: dict[tuple[str, ...], Tensor] = {}
        self.register_load_state_dict_post_hook(_forget_text)

    @classmethod
    def from_params(cls, params: Params, **parts: Any) -> EvaMaskCLIPpp:
        """Build it with EVA02-CLIP-L-14-336 as student; `parts` as in `Segmenter`."""
        tower = EvaTower(
            width=1024, depth=24, heads=16, hidden=2730, embed_dim=768, patch=14, side=24
        )
        text = TextTransformer(width=768, heads=12, layers=12, output_dim=768)
        return cls(
            visual_encoder=EvaEncoder(tower, mask_blocks=3),
            text_encoder=EvaText(text),
            psm=SimilarityMap(sentences=1),
            **naming_parts(params, parts),
        )

    @property
    def architecture(self) -> dict[str, Any]:
        """Name and student."""
        return {"model": "maskclippp", "student": "eva02_l"}

    @property
    def naming_clip(self) -> nn.Module:
        """Not to be had: this student has no dense features to pool."""
        raise MaftpError("the EVA02 student pools no features; leave it out of the drift plot")

    def not_decayed(self) -> list[nn.Parameter]:
        """Return the tables of positions, which are raw parameters."""
        return [self.visual_encoder.proxy.pos_embed, self.text_encoder.proxy.positional_embedding]

    def losses(
        self, images: Tensor, text: Tensor, rows: Tensor, targets: Targets
    ) -> dict[str, Tensor]:
        """Name the ground-truth masks that cover a patch; see `Segmenter.losses`."""
        synonyms = _synonyms(self.training_names or ())
        chosen = self.text_encoder(
            [synonyms[row] for row in draw_synonyms(rows).tolist()]
        )  # (K, D)
        size = tuple(side // self.size_divisibility for side in images.shape[-2:])
        weights = [resize_maps(target["masks"].float(), size) for target in targets]
        kept = [image.flatten(1).any(1) for image in weights]
        most = max(1, *(int(image.sum()) for image in kept))
        padded = [
            F.pad(image[k], (0, 0, 0, 0, 0, most - int(k.sum())))
            for image, k in zip(weights, kept, strict=True)
        ]  # (most, h, w)
        logits = self._similarity(images, torch.stack(padded), chosen)  # (B, most, K)
        labels = [target["labels"][k] for target, k in zip(targets, kept, strict=True)]
        named = [image[: len(classes)] for image, classes in zip(logits, labels, strict=True)]
        return {"loss_ce": balanced_mask_loss(named, labels, current_share(targets))}

    def name_masks(
        self, masks: Tensor, proposing: ImageList, student: ImageList, text: Tensor, rows: Tensor
    ) -> Tensor:
        """See `MaskCLIPpp.name_masks`."""
        size = [side // self.size_divisibility for side in student.tensor.shape[-2:]]
        weights = torch.stack(list(student_masks(masks, proposing, student, size)))
        own = self._own_text(self.test_names or ())
        return best_rows(self._similarity(student.tensor, weights, own), rows)

    def train(self, mode: bool = True) -> EvaMaskCLIPpp:
        """Set the mode; what training changes of the text tower is embedded anew."""
        self._text.clear()
        super().train(mode)
        return self

    def _similarity(self, images: Tensor, weights: Tensor, text: Tensor) -> Tensor:
        """Compare what lies under masks (B, Q, h, w) with text (S, D), (B, Q, S)."""
        embeddings = F.normalize(self.visual_encoder(images, weights), dim=-1)
        return self.psm((self.text_encoder.scale * (embeddings @ text.T))[..., None])

    @torch.no_grad()
    def _own_text(self, names: tuple[str, ...]) -> Tensor:
        if names not in self._text:
            synonyms = _synonyms(names)
            chunks = [synonyms[i : i + CHUNK] for i in range(0, len(synonyms), CHUNK)]
            self._text = {names: torch.cat([self.text_encoder(chunk) for chunk in chunks])}
        return self._text[names]


def load_student(model: Segmenter, path: Path) -> None:
    """Fill the student from a weight file of EVA-CLIP, whose names are `visual.`, `text.`.

    Raises:
        CheckpointError: the file is damaged or of another model.
    """
    moved = {"visual.": "visual_encoder.proxy.", "text.": "text_encoder.proxy."}
    state = {}
    for name, tensor in read_state(path).items():
        if ".rope." in name or name.endswith("attn_mask"):
            continue  # follow from the sizes
        for old, new in moved.items():
            if name.startswith(old):
                name = new + name.removeprefix(old)
        state["text_encoder.logit_scale" if name == "logit_scale" else name] = tensor
    own = model.state_dict()
    wanted = {n: t for n, t in own.items() if n.startswith(EvaMaskCLIPpp.trunk_prefix)}
    model.load_state_dict(own | fit_state(state, wanted, source=path, model="an EVA02-L student"))


def _synonyms(names: Sequence[str]) -> list[str]:
    """Return the synonyms of all classes, one per row of the text."""
    return [synonym for name in names for synonym in split_synonyms(name)]


def _forget_text(model: EvaMaskCLIPpp, incompatible: object) -> None:
    """Other weights have other text embeddings."""
    model._text.clear()
