"""Text embeddings of a vocabulary: computed as the textbook does, computed by ours, and cached."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import measure
import subject
import torch
import torch.nn.functional as F
from torch import Tensor

from maftp.data.vocabulary import split_synonyms
from maftp.modeling.clip_backbone import ClipBackbone
from maftp.modeling.text_classifier import TEMPLATES, TextEmbeddings, embed_vocabulary

NOTE = (
    "Text tower of {experiment}, {names} names, 14 sentences each, float32, random weights. "
    "The textbook gives every sentence 77 positions. Processor seconds, one run of each. `cached` "
    "reads the file and checks the digests of tower, names and sentences; names do not "
    "slow it down."
)
WORDS = ("wall", "building, edifice", "sky", "traffic light", "swivel chair", "door", "table")


def main() -> None:
    """Embed one vocabulary in three ways."""
    options = _options()
    model = subject.model_of(options.experiment, num_classes=2, training=False)
    names = [
        f"{WORDS[i % len(WORDS)]} {i // len(WORDS) or ''}".strip() for i in range(options.names)
    ]
    start = time.process_time()
    plain = textbook_embeddings(model.backbone, names)
    middle = time.process_time()
    ours = embed_vocabulary(model.backbone, names)
    end = time.process_time()
    torch.testing.assert_close(ours.weight, plain, rtol=0, atol=1e-5)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text.safetensors"
        ours.save(path)
        begin = time.process_time()
        model.set_test_vocabulary(names, embeddings=TextEmbeddings.load(path))
        cached = time.process_time() - begin
    rows = [
        {"variant": name, "seconds": seconds, "time ratio": measure.ratio(seconds, middle - start)}
        for name, seconds in (
            ("textbook", middle - start), ("ours", end - middle), ("cached", cached)
        )
    ]  # fmt: skip
    measure.publish("text", rows, options=options, note=NOTE.format(**vars(options)))


def _options() -> argparse.Namespace:
    parser = measure.parser(__doc__)
    parser.add_argument("--names", type=int, default=30)
    parser.add_argument("--experiment", default="maftp_base")
    return parser.parse_args()


@torch.no_grad()
def textbook_embeddings(backbone: ClipBackbone, names: list[str]) -> Tensor:
    """Embed every sentence of every listed name at full length, 128 at a time."""
    sentences = [
        template.format(synonym)
        for name in names
        for synonym in split_synonyms(name)
        for template in TEMPLATES
    ]
    chunks = [
        backbone.clip_model.encode_text(backbone.tokenizer(sentences[start : start + 128]))
        for start in range(0, len(sentences), 128)
    ]
    embedded = F.normalize(torch.cat(chunks), dim=-1).unflatten(0, (-1, len(TEMPLATES)))
    return F.normalize(embedded.mean(1), dim=-1)


if __name__ == "__main__":
    main()
