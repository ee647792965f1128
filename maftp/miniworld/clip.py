"""The miniature CLIP: a real open_clip model, trained contrastively on windows of scenes.

ConvNeXt and text transformer are those of `maftp_miniature.json`, the tokenizer is open_clip's own
and the loss is its `ClipLoss` (Radford et al. 2021). Only the tokens that captions use are trained;
the rows of all others are zero in the checkpoint.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.loss import ClipLoss
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import save_file
from torch import Tensor, nn

from maftp.files import atomic_path
from maftp.miniworld.label_spaces import all_things
from maftp.miniworld.scenes import Style
from maftp.miniworld.views import ViewPool
from maftp.miniworld.words import read_words, sentences
from maftp.progress import track

logger = logging.getLogger(__name__)

CONFIG = "maftp_miniature"
_MEAN = (122.7709383, 116.7460125, 104.09373615)
_STD = (68.5005327, 66.6321579, 70.32316305)
_LARGEST_SCALE = math.log(100)
_BLOCK_GAIN = 0.5
_LOG_PERIOD = 50


@dataclass(frozen=True)
class Stage:
    """One part of the training, at one size of windows.

    Attributes:
        side: side of a window in pixels.
        steps: optimizer steps.
        batch_size: pairs per step.
        learning_rate: at its peak; warmed up over a twentieth of the steps, then a half cosine.
    """

    side: int
    steps: int
    batch_size: int
    learning_rate: float


@dataclass(frozen=True)
class Recipe:
    """How the miniature CLIP is trained.

    Attributes:
        stages: small windows first, then larger ones, in which things are off the middle.
        weight_decay: of matrices; vectors and scalars have none.
        scenes: scenes drawn, of which windows are cut without end.
        seed: of scenes, windows, captions and weights.
        threads: torch threads; another number gives slightly other weights.
    """

    stages: tuple[Stage, ...]
    weight_decay: float
    scenes: int
    seed: int
    threads: int


SHIPPED = Recipe(
    stages=(
        Stage(side=64, steps=900, batch_size=256, learning_rate=3e-3),
        Stage(side=96, steps=400, batch_size=128, learning_rate=1.5e-3),
        Stage(side=128, steps=500, batch_size=96, learning_rate=1e-3),
    ),
    weight_decay=0.05,
    scenes=2500,
    seed=0,
    threads=2,
)
"""What made the shipped weights."""


def config() -> dict[str, Any]:
    """Return the open_clip configuration of the miniature CLIP."""
    return json.loads(files("maftp.miniworld").joinpath(f"{CONFIG}.json").read_text())


def style() -> Style:
    """Return the look of the scenes that CLIP is trained on: everything, in every light."""
    return Style(
        things=all_things(), stuff=list(read_words().stuff), size=(0.35, 0.6), tint=0.08, gloom=0.3
    )


def train_clip(out: Path, *, recipe: Recipe) -> None:
    """Train the miniature CLIP and write it as an open_clip weight file, float16 .safetensors.

    The same recipe gives the same file on one machine.

    Args:
        out: file to write, atomically.
        recipe: how to train.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    tokens = CaptionTokens()
    model = _create(vocab_size=len(tokens))
    pool = ViewPool(style=style(), scenes=recipe.scenes, seed=recipe.seed)
    try:
        _fit(model, pool, tokens, recipe)
    finally:
        torch.set_num_threads(threads)
    state = tokens.expand(model.state_dict(), rows=config()["text_cfg"]["vocab_size"])
    # One key only: safetensors writes several in random order.
    metadata = {"recipe": json.dumps({"model": CONFIG, **asdict(recipe)})}
    with atomic_path(out) as temporary:
        save_file({name: t.half().contiguous() for name, t in state.items()}, temporary, metadata)


class CaptionTokens:
    """Tokenizer of captions; its ids count only the tokens that captions can hold."""

    def __init__(self) -> None:
        """Tokenize every word of the table and every form of sentence."""
        self._tokenizer = SimpleTokenizer(context_length=config()["text_cfg"]["context_length"])
        words = read_words()
        rows = [*words.kinds.values(), *words.colours.values(), *words.patterns.values()]
        names = [name for row in rows for name in row]
        names += [name for s in words.stuff.values() for name in (*s.words, s.coarse)]
        joins = (sentences().beside, sentences().standing, sentences().behind)
        texts = [*names, *(form.format("a") for form in sentences().forms)]
        texts += [join.format("a", "a") for join in joins]
        self.ids = np.unique(self._tokenizer(texts).numpy())
        self._cache: dict[str, NDArrayInt] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """Return compact ids (n, context length); their order is that of the full ids."""
        for caption in set(captions) - self._cache.keys():
            full = self._tokenizer([caption])[0].numpy()
            compact = np.searchsorted(self.ids, full)
            if not np.array_equal(self.ids[compact % len(self.ids)], full):
                raise ValueError(f"the caption {caption!r} holds a token that no form or name has")
            self._cache[caption] = compact
        return torch.from_numpy(np.stack([self._cache[caption] for caption in captions]))

    def expand(self, state: dict[str, Tensor], *, rows: int) -> dict[str, Tensor]:
        """Return the state with a full token embedding (rows, width), zero for all other tokens."""
        compact = state["token_embedding.weight"]
        full = torch.zeros(rows, compact.shape[1])
        full[torch.from_numpy(self.ids)] = compact
        return state | {"token_embedding.weight": full}


NDArrayInt = np.ndarray[Any, np.dtype[np.int64]]
Pair = tuple[Tensor, Tensor]


def _create(*, vocab_size: int) -> open_clip.CLIP:
    values = config()
    values["text_cfg"]["vocab_size"] = vocab_size
    model = open_clip.CLIP(**values)
    _initialise(model.visual)
    return model


def _initialise(visual: nn.Module) -> None:
    """Start with blocks that pass signals on.

    ConvNeXt's own start (weights of deviation 0.02, block gains of 1e-6) suits wide networks and
    long training; a narrow one with a thousand steps does not get going from it. Depthwise kernels
    start in their middle: at stride 32 a small window never trains the outer taps, which would stay
    as noise in the features of larger pictures.
    """
    for name, parameter in visual.named_parameters():
        if name.endswith("gamma"):
            nn.init.constant_(parameter, _BLOCK_GAIN)
        elif name.endswith("conv_dw.weight"):
            nn.init.zeros_(parameter)
            nn.init.trunc_normal_(parameter.data[..., 2:5, 2:5], std=1 / 3)
        elif parameter.ndim > 1:
            nn.init.trunc_normal_(parameter, std=parameter[0].numel() ** -0.5)


def _fit(model: open_clip.CLIP, pool: ViewPool, tokens: CaptionTokens, recipe: Recipe) -> None:
    model.train()
    for number, stage in enumerate(recipe.stages, start=1):
        rng = np.random.default_rng([recipe.seed, number])
        pairs = (_batch(rng, pool, tokens, stage) for _ in range(stage.steps))
        description = f"Training the miniature CLIP, {stage.side} px"
        _fit_stage(model, track(pairs, description, stage.steps), stage, recipe.weight_decay)
    model.eval()


def _fit_stage(
    model: open_clip.CLIP, pairs: Iterable[Pair], stage: Stage, weight_decay: float
) -> None:
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=stage.learning_rate, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _warm_cosine(step, stage))
    loss_of = ClipLoss()
    for step, (images, captions) in enumerate(pairs, start=1):
        image_features = model.encode_image(images, normalize=True)
        text_features = model.encode_text(captions, normalize=True)
        loss = loss_of(image_features, text_features, model.logit_scale.exp())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, _LARGEST_SCALE)
        if step % _LOG_PERIOD == 0:
            logger.info("step %d of %d: contrastive loss %.3f", step, stage.steps, loss.item())


def _warm_cosine(step: int, stage: Stage) -> float:
    warm = max(stage.steps // 20, 1)
    return min((step + 1) / warm, 0.51 + 0.49 * math.cos(math.pi * step / stage.steps))


def _batch(rng: np.random.Generator, pool: ViewPool, tokens: CaptionTokens, stage: Stage) -> Pair:
    views = [pool.draw(rng, side=stage.side) for _ in range(stage.batch_size)]
    return normalise([view.image for view in views]), tokens([view.caption for view in views])


def normalise(images: Sequence[np.ndarray]) -> Tensor:
    """Stack images (H, W, 3) u8 to (n, 3, H, W) float32 in CLIP's normalisation."""
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (_MEAN, _STD))
    return (pixels - mean) / std
