"""Commands that train and evaluate one variant."""

from __future__ import annotations

import argparse
from pathlib import Path

from maftp.commands.parser import catalog_and_root, command, read_params


def add(commands: argparse._SubParsersAction) -> None:
    """Add these commands."""
    _add_train(commands)
    _add_evaluate(commands)


def _add_train(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands,
        "train",
        "Train one variant with one seed; continues from its last checkpoint if there is one.",
        _train,
    )
    _add_run_options(parser)
    parser.add_argument("--clip", type=Path, required=True, help="CLIP's weights (.safetensors)")
    parser.add_argument(
        "--text", type=Path, required=True, help="embeddings of the training vocabulary"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument(
        "--attempt", type=int, default=1, metavar="N",
        help="counted by a workflow: from 2 on, a mistake is not tried again (1)",
    )  # fmt: skip


def _train(options: argparse.Namespace) -> None:
    from maftp.data.layout import datasets_root, manifest_path
    from maftp.training.launch import launch

    params = read_params(options).for_variant(options.variant)
    data = manifest_path(datasets_root(params.data.root), params.data.train)
    launch(
        params,
        variant=options.variant,
        seed=options.seed,
        clip=options.clip,
        embeddings=options.text,
        out=options.out,
        inputs=[data],
        attempt=options.attempt,
    )


def _add_evaluate(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands, "evaluate", "Score a checkpoint on one benchmark and draw pictures.", _evaluate
    )
    parser.add_argument("benchmark", help="name in the catalog, such as A-150")
    _add_run_options(parser)
    parser.add_argument("--weights", type=Path, required=True, help="released or own checkpoint")
    parser.add_argument("--text", type=Path, help="cached embeddings of the vocabulary")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--overlays", type=Path, help="folder of pictures to write")
    parser.add_argument("--statistics", type=Path, help="folder of counts per image to write")


def _evaluate(options: argparse.Namespace) -> None:
    from maftp.evaluation.runner import evaluate

    params = read_params(options)
    catalog, root = catalog_and_root(params)
    evaluate(
        params.for_variant(options.variant),
        variant=options.variant,
        seed=options.seed,
        benchmark=options.benchmark,
        weights=options.weights,
        catalog=catalog,
        root=root,
        out=options.out,
        overlays_dir=options.overlays,
        statistics_dir=options.statistics,
        embeddings=options.text,
    )


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--variant", default="maftp", help="variant in the parameters (maftp)")
    parser.add_argument(
        "--seed", type=int, default=0, help="decides samples and initial weights (0)"
    )
