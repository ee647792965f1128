"""How well the miniature CLIP names what it sees, in whole windows and in regions of larger scenes.

The second is what a frozen CLIP gives to segmentation: dense features, averaged under the true mask
of a region, through the visual head (mask pooling as in FC-CLIP and MAFT+).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import load_file
from torch import Tensor

from maftp.miniworld.clip import config, normalise, style
from maftp.miniworld.label_spaces import LabelSpace, coco
from maftp.miniworld.scenes import Scene
from maftp.miniworld.splits import Split, draw_split
from maftp.miniworld.views import ViewPool
from maftp.miniworld.words import sentences

_TEMPLATES = 14


def load(path: Path) -> open_clip.CLIP:
    """Load the weights that `train_clip` wrote, in evaluation mode."""
    model = open_clip.CLIP(**config())
    model.load_state_dict(load_file(path))
    return model.eval()


class Namer:
    """Names embeddings by the classes of a label space, as the method's text classifier does."""

    def __init__(self, model: open_clip.CLIP, space: LabelSpace) -> None:
        """Embed every name of every class."""
        self._tokenizer = SimpleTokenizer(context_length=config()["text_cfg"]["context_length"])
        names = [(index, name) for index, row in enumerate(space.rows) for name in row.names]
        self._owners = torch.tensor([index for index, _ in names])
        self._classes = len(space)
        with torch.no_grad():
            self._texts = torch.stack([self._embed(model, name) for _, name in names])

    def _embed(self, model: open_clip.CLIP, name: str) -> Tensor:
        texts = [form.format(name) for form in sentences().forms[:_TEMPLATES]]
        rows = model.encode_text(self._tokenizer(texts), normalize=True)
        return F.normalize(rows.mean(0), dim=0)

    def __call__(self, embeddings: Tensor) -> Tensor:
        """Return the class index of every embedding (n, D): the class of the nearest name."""
        nearest = F.normalize(embeddings, dim=-1) @ self._texts.T
        best = torch.full((len(nearest), self._classes), -torch.inf)
        owners = self._owners.expand(len(nearest), -1)
        return best.scatter_reduce(1, owners, nearest, "amax").argmax(1)


@torch.no_grad()
def region_embeddings(model: open_clip.CLIP, image: np.ndarray, masks: Tensor) -> Tensor:
    """Embed regions of an image by mask pooling.

    Args:
        model: the CLIP.
        image: (H, W, 3) u8; H and W multiples of 32.
        masks: (n, H, W) 0 or 1.

    Returns:
        (n, D), not normalised; a region that fills no cell of the map embeds the zero vector.
    """
    trunk = model.visual.trunk
    dense = trunk.norm_pre(trunk.stages(trunk.stem(normalise([image]))))[0]
    logits = F.interpolate(masks[None] - 0.5, size=dense.shape[-2:], mode="bilinear")
    cells = (logits[0] > 0).float()
    pooled = torch.einsum("chw,nhw->nc", dense, cells) / (cells.sum((1, 2))[:, None] + 1e-8)
    return model.visual.head(trunk.forward_head(pooled[..., None, None]))


def regions(scene: Scene, space: LabelSpace) -> tuple[Tensor, list[int]]:
    """Return the masks (n, H, W) of the regions of a scene that have a class, and their classes."""
    ranks = {row.code: rank for rank, row in enumerate(space.rows)}
    bare = ~scene.things_mask
    found = [(name, (scene.stuff == i) & bare) for i, name in enumerate(scene.stuff_names)]
    found += [(instance.thing, instance.mask) for instance in scene.instances]
    named = [(space.code(member), mask) for member, mask in found if mask.any()]
    kept = [(ranks[code], mask) for code, mask in named if code is not None]
    masks = np.array([mask for _, mask in kept], np.float32).reshape(-1, *scene.stuff.shape)
    return torch.from_numpy(masks), [rank for rank, _ in kept]


def region_accuracy(
    model: open_clip.CLIP, space: LabelSpace, scenes: Iterable[Scene]
) -> tuple[float, float]:
    """Return the part of thing regions, and of stuff regions, that CLIP names rightly."""
    namer = Namer(model, space)
    right: dict[bool, list[bool]] = {True: [], False: []}
    for scene in scenes:
        masks, classes = regions(scene, space)
        if classes:
            named = namer(region_embeddings(model, scene.image, masks)).tolist()
            for guess, truth in zip(named, classes, strict=True):
                right[space.rows[truth].isthing].append(guess == truth)
    return float(np.mean(right[True])), float(np.mean(right[False]))


@torch.no_grad()
def window_accuracy(
    model: open_clip.CLIP, space: LabelSpace, *, windows: int, seed: int, side: int
) -> float:
    """Return the part of windows whose subject CLIP names rightly among the classes of `space`."""
    namer = Namer(model, space)
    pool = ViewPool(style=style(), scenes=max(windows // 4, 1), seed=seed)
    rng = np.random.default_rng([seed, 1])
    ranks = {row.code: rank for rank, row in enumerate(space.rows)}
    views = [pool.draw(rng, side=side) for _ in range(windows)]
    kept = [(view, code) for view in views if (code := space.code(view.subject)) is not None]
    images = normalise([view.image for view, _ in kept])
    guesses = namer(model.encode_image(images)).tolist()
    return float(np.mean([g == ranks[code] for g, (_, code) in zip(guesses, kept, strict=True)]))


def report(
    path: Path, *, scenes: int, seed: int, sizes: Sequence[tuple[int, int]]
) -> dict[str, float]:
    """Return zero-shot accuracies over the training classes, of windows and of regions.

    Args:
        path: weights.
        scenes: scenes to look at; four times as many windows are.
        seed: of the scenes; take one that training did not use.
        sizes: (height, width) of the scenes, multiples of 32, in turn.
    """
    model, space = load(path), coco()
    split = Split(space=space, style=style(), sizes=sizes)
    drawn = (picture.scene for picture in draw_split(split, count=scenes, seed=(seed, 0)))
    things, stuff = region_accuracy(model, space, drawn)
    side = int(config()["vision_cfg"]["image_size"])
    windows = window_accuracy(model, space, windows=4 * scenes, seed=seed, side=side)
    return {"windows": windows, "thing_regions": things, "stuff_regions": stuff}
