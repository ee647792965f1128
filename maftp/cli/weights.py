"""`maftp clip | released-weights | miniature-clip | embed`: CLIP, its texts, released weights."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from maftp.cli.options import PARAMS, NewFile, ParamFiles, catalog_and_root, read_params


def clip(*, variant: str = "maftp", out: NewFile, params: ParamFiles = PARAMS) -> None:
    """Fetch CLIP's pretrained weights into one checked file.

    Args:
        variant: variant whose CLIP it is.
        out: .safetensors file to write.
    """
    from maftp.modeling.clip_backbone import fetch_clip

    fetch_clip(read_params(params).for_variant(variant).clip, out)


def released_weights(
    name: str,
    /,
    *,
    variant: str = "maftp",
    clip: Path | None = None,
    out: NewFile,
    params: ParamFiles = PARAMS,
) -> None:
    """Check every entry of a downloaded released checkpoint and keep it as .safetensors.

    Args:
        name: name in the catalog, such as maftp_b.
        variant: variant it belongs to.
        clip: CLIP's weights (.safetensors), for a checkpoint that holds the trained part alone.
        out: .safetensors file to write.
    """
    from maftp.data.download import fetch
    from maftp.data.layout import archives_dir
    from maftp.modeling.released_weights import convert_released

    recipe = read_params(params).for_variant(variant)
    catalog, root = catalog_and_root(recipe)
    convert_released(
        recipe,
        fetch(catalog.released(name), archives_dir(root)),
        out,
        name=name,
        num_training_classes=catalog.dataset(recipe.data.train).classes,
        clip=clip,
        proposals=recipe.other_weights(seed=0).get("proposals") if clip else None,
    )


def miniature_clip(*, out: NewFile) -> None:
    """Train the miniature world's CLIP anew.

    Args:
        out: .safetensors file to write.
    """
    from maftp.miniworld.clip import SHIPPED, train_clip

    train_clip(out, recipe=SHIPPED)


def embed(
    vocabulary: Path,
    /,
    *,
    keep_row_zero: bool = False,
    variant: str = "maftp",
    clip: Path,
    templates: Literal[1, 14] | None = None,
    out: NewFile,
    params: ParamFiles = PARAMS,
) -> None:
    """Embed the class names of a vocabulary with CLIP's text tower.

    Args:
        vocabulary: text file, one `index:name,synonym` a line.
        keep_row_zero: row 0 is a class as well.
        variant: variant whose CLIP it is.
        clip: CLIP's weights (.safetensors).
        templates: sentences per name; by default clip.templates.
        out: .safetensors file to write.
    """
    import torch

    from maftp.data.vocabulary import read_vocabulary
    from maftp.gpus import leased
    from maftp.modeling.clip_backbone import ClipBackbone
    from maftp.modeling.text_classifier import TEMPLATES, embed_vocabulary

    recipe = read_params(params).for_variant(variant)
    words = read_vocabulary(vocabulary, keep_row_zero=keep_row_zero)
    backbone = ClipBackbone.from_params(recipe, weights=clip)
    sentences = TEMPLATES[: templates or recipe.clip.templates]
    unfinished = out.with_name(f"{out.name}.unfinished")
    with leased(min(recipe.execution.gpus_per_worker, 1)):
        if recipe.execution.gpus_per_worker and torch.cuda.is_available():
            backbone = backbone.cuda()
        embedded = embed_vocabulary(
            backbone, words.names, templates=sentences, unfinished=unfinished
        )
    embedded.save(out)
