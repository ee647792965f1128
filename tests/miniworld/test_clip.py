"""The miniature CLIP: its training, its tokens, and the shipped weights."""

import json
from dataclasses import asdict, replace
from importlib.resources import files

import numpy as np
import open_clip
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from maftp.miniworld.clip import (
    CONFIG,
    SHIPPED,
    CaptionTokens,
    Recipe,
    Stage,
    config,
    normalise,
    train_clip,
)
from maftp.miniworld.label_spaces import all_things
from maftp.miniworld.words import sentences

SHIPPED_FILE = files("maftp.miniworld").joinpath("clip_miniature.safetensors")
STAGE = Stage(side=32, steps=2, batch_size=6, learning_rate=2e-3)
TINY = Recipe(
    stages=(STAGE, replace(STAGE, side=64)), weight_decay=0.05, scenes=3, seed=0, threads=1
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    out = tmp_path_factory.mktemp("clip") / "tiny.safetensors"
    train_clip(out, recipe=TINY)
    return out


def test_training_writes_an_open_clip_checkpoint(tiny):
    open_clip.add_model_config(str(files("maftp.miniworld").joinpath(f"{CONFIG}.json")))
    model = open_clip.create_model(CONFIG, pretrained=str(tiny))
    image = model.encode_image(torch.zeros(1, 3, 64, 64))
    text = model.encode_text(open_clip.get_tokenizer(CONFIG)(["a photo of a red ball."]))
    assert image.shape == text.shape == (1, config()["embed_dim"])
    assert torch.isfinite(image).all() and torch.isfinite(text).all()


def test_training_repeats_itself(tiny, tmp_path):
    again = tmp_path / "again.safetensors"
    train_clip(again, recipe=TINY)
    assert again.read_bytes() == tiny.read_bytes()


@pytest.mark.slow
def test_training_lowers_the_loss(tmp_path, caplog):
    # 150 steps on pairs of 3 scenes: the loss of a fresh model is ln(6) = 1.79, chance among 6.
    with caplog.at_level("INFO", logger="maftp.miniworld.clip"):
        train_clip(
            tmp_path / "x.safetensors", recipe=replace(TINY, stages=(replace(STAGE, steps=150),))
        )
    losses = [float(record.getMessage().rsplit(" ", 1)[1]) for record in caplog.records]
    assert len(losses) == 3 and np.isfinite(losses).all()
    assert min(losses) < 1.7


def test_only_tokens_of_captions_are_kept(tiny):
    rows = load_file(tiny)["token_embedding.weight"]
    tokens = CaptionTokens()
    used = torch.zeros(len(rows), dtype=torch.bool)
    used[torch.from_numpy(tokens.ids)] = True
    assert len(rows) == 49408
    assert not rows[~used].any() and rows[used].abs().sum(1).min() > 0


def test_compact_tokens_keep_the_order_of_the_full_ones():
    tokens = CaptionTokens()
    forms = sentences().forms
    captions = [
        form.format(name)
        for form in forms
        for thing in all_things()[:40:7]
        for name in thing.names(pattern=True)
    ]
    compact = tokens(captions).numpy()
    full = open_clip.SimpleTokenizer(context_length=24)(captions).numpy()
    np.testing.assert_array_equal(tokens.ids[compact], full)
    np.testing.assert_array_equal(compact.argmax(1), full.argmax(1))  # the end-of-text token
    with pytest.raises(ValueError, match="zebra"):
        tokens(["a photo of a zebra."])


def test_normalise_matches_open_clips_constants():
    image = np.full((4, 6, 3), 255, np.uint8)
    mean, std = (
        torch.tensor(v) for v in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )
    expected = ((1 - mean) / std).view(1, 3, 1, 1).expand(1, 3, 4, 6)
    torch.testing.assert_close(normalise([image]), expected, atol=1e-5, rtol=1e-5)


def test_shipped_file_is_small_and_says_what_made_it():
    with safe_open(str(SHIPPED_FILE), "pt") as file:
        recipe = json.loads(file.metadata()["recipe"])
    assert recipe == json.loads(json.dumps({"model": CONFIG, **asdict(SHIPPED)}))
    assert len(SHIPPED_FILE.read_bytes()) < 16_000_000
