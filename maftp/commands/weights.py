"""Commands about CLIP, its text embeddings, and released weights."""

from __future__ import annotations

import argparse
from pathlib import Path

from maftp.commands.parser import catalog_and_root, command, read_params


def add(commands: argparse._SubParsersAction) -> None:
    """Add these commands."""
    _add_clip(commands)
    _add_released(commands)
    _add_miniature_clip(commands)
    _add_embed(commands)


def _add_clip(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands, "clip", "Fetch CLIP's pretrained weights into one checked file.", _clip
    )
    _add_variant(parser)
    parser.add_argument("--out", type=Path, required=True, help=".safetensors file to write")


def _add_variant(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--variant", default="maftp", help="variant whose CLIP it is (maftp)")


def _clip(options: argparse.Namespace) -> None:
    from maftp.modeling.clip_weights import fetch_clip

    fetch_clip(read_params(options).for_variant(options.variant).clip, options.out)


def _add_released(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands,
        "released-weights",
        "Check every entry of a downloaded released checkpoint and keep it as .safetensors.",
        _released,
    )
    parser.add_argument("name", help="name in the catalog, such as maftp_b")
    parser.add_argument("--variant", default="maftp", help="variant it belongs to (maftp)")
    parser.add_argument("--out", type=Path, required=True, help=".safetensors file to write")


def _released(options: argparse.Namespace) -> None:
    from maftp.data.download import fetch
    from maftp.data.layout import archives_dir
    from maftp.modeling.released_weights import convert_released

    params = read_params(options).for_variant(options.variant)
    catalog, root = catalog_and_root(params)
    convert_released(
        params,
        fetch(catalog.released(options.name), archives_dir(root)),
        options.out,
        name=options.name,
        num_training_classes=catalog.dataset(params.data.train).classes,
    )


def _add_miniature_clip(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands,
        "miniature-clip",
        "Train the miniature world's CLIP anew.",
        _miniature_clip,
        params=False,
    )
    parser.add_argument("--out", type=Path, required=True, help=".safetensors file to write")


def _miniature_clip(options: argparse.Namespace) -> None:
    from maftp.miniworld.clip import SHIPPED, train_clip

    train_clip(options.out, recipe=SHIPPED)


def _add_embed(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands, "embed", "Embed the class names of a vocabulary with CLIP's text tower.", _embed
    )
    parser.add_argument("vocabulary", type=Path, help="text file, one `index:name,synonym` a line")
    parser.add_argument("--keep-row-zero", action="store_true", help="row 0 is a class as well")
    _add_variant(parser)
    parser.add_argument("--clip", type=Path, required=True, help="CLIP's weights (.safetensors)")
    parser.add_argument(
        "--templates", type=int, choices=(1, 14), help="sentences per name (clip.templates)"
    )
    parser.add_argument("--out", type=Path, required=True, help=".safetensors file to write")


def _embed(options: argparse.Namespace) -> None:
    import torch

    from maftp.data.vocabulary import read_vocabulary
    from maftp.modeling.clip_backbone import ClipBackbone
    from maftp.modeling.text_classifier import TEMPLATES, embed_vocabulary

    params = read_params(options).for_variant(options.variant)
    vocabulary = read_vocabulary(options.vocabulary, keep_row_zero=options.keep_row_zero)
    backbone = ClipBackbone.from_params(params, weights=options.clip)
    if params.execution.gpus_per_worker and torch.cuda.is_available():
        backbone = backbone.cuda()
    templates = TEMPLATES[: options.templates or params.clip.templates]
    unfinished = options.out.with_name(f"{options.out.name}.unfinished")
    embed_vocabulary(backbone, vocabulary.names, templates=templates, unfinished=unfinished).save(
        options.out
    )
