"""Draw docs/miniature.png from a finished miniature experiment: `python docs/pictures.py`."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import maftp
from maftp.config import load_params
from maftp.data.images import read_label
from maftp.data.layout import vocabulary_path
from maftp.data.vocabulary import read_vocabulary
from maftp.report.figures import NOTHING, Layer, draw_panel

PROJECT = Path(__file__).resolve().parent.parent
IGNORE_LABEL = 255
PICTURES = ("ADE_val_00000003", "ADE_val_00000014", "ADE_val_00000021")


def main() -> None:
    """Segment validation pictures of A-150 with both models and stack the panels."""
    params = load_params(PROJECT / "params.yaml")
    root = PROJECT / str(params.data.root)
    vocabulary = read_vocabulary(vocabulary_path(root, "ade20k_150"))
    models = {
        title: maftp.load_model(
            f"miniature:{variant}",
            PROJECT / f"results/miniature/{variant}/seed{params.seeds[0]}/weights.safetensors",
        )
        for title, variant in (("frozen CLIP", "fcclip"), ("MAFT+", "maftp"))
    }
    challenge = root / "ade/ADEChallengeData2016"
    rows = []
    for stem in PICTURES:
        image = np.asarray(Image.open(challenge / f"images/validation/{stem}.jpg").convert("RGB"))
        truth = read_label(challenge / f"annotations_detectron2/validation/{stem}.png")
        truth = np.where(truth == IGNORE_LABEL, NOTHING, truth.astype(np.int64))
        layers = [Layer("ground truth", truth)]
        for title, model in models.items():
            size = params.input.test
            found = maftp.segment(
                model,
                image,
                vocabulary.names,
                short_side=size.short_side,
                max_side=size.max_side,
            )
            layers.append(Layer(title, found.labels))
        rows.append(_panel(image, layers, vocabulary))
    width = max(row.width for row in rows)
    sheet = Image.new("RGB", (width, sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    sheet.thumbnail((1400, 10_000))
    sheet.quantize(256).save(PROJECT / "docs/miniature.png", optimize=True)


def _panel(image: np.ndarray, layers: list[Layer], vocabulary: object) -> Image.Image:
    colours = [category.color for category in vocabulary.categories]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "panel.png"
        draw_panel(path, image, layers, names=vocabulary.names, colours=colours)
        return Image.open(path).convert("RGB")


if __name__ == "__main__":
    main()
