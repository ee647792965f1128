"""`maftp train` and `maftp evaluate`: one variant with one seed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from maftp.cli.options import (
    PARAMS,
    NewFolder,
    ParamFiles,
    Several,
    catalog_and_root,
    check_text,
    read_params,
)


def train(
    *,
    variant: str = "maftp",
    seed: int = 0,
    clip: Path,
    text: Path,
    out: NewFolder,
    attempt: int = 1,
    params: ParamFiles = PARAMS,
) -> None:
    """Train one variant with one seed; continues from its last checkpoint if there is one.

    Args:
        variant: variant in the parameters.
        seed: decides samples and initial weights.
        clip: CLIP's weights (.safetensors).
        text: embeddings of the training vocabulary.
        out: folder of the run.
        attempt: counted by a workflow; from 2 on, a mistake is not tried again.
    """
    from maftp.data.layout import datasets_root, manifest_path
    from maftp.gpus import leased
    from maftp.training.launch import launch

    recipe = read_params(params).for_variant(variant)
    # on several nodes, and on a cluster that is joined, Ray gives out the GPUs
    here = recipe.resources.nodes == 1 and os.environ.get("RAY_ADDRESS", "local") == "local"
    gpus = recipe.execution.workers * recipe.execution.gpus_per_worker
    with leased(gpus if here else 0):
        launch(
            recipe,
            variant=variant,
            seed=seed,
            clip=clip,
            embeddings=text,
            out=out,
            others=recipe.other_weights(seed),
            inputs=[manifest_path(datasets_root(recipe.data.root), recipe.data.train)],
            attempt=attempt,
        )


def evaluate(
    benchmarks: tuple[str, ...],
    /,
    *,
    variant: str = "maftp",
    seed: int = 0,
    weights: Path,
    text: Annotated[tuple[Path, ...], Several] = (),
    out: NewFolder,
    params: ParamFiles = PARAMS,
) -> None:
    """Score a checkpoint on benchmarks; write scores, counts per image and pictures.

    Args:
        benchmarks: names in the catalog, such as A-150.
        variant: variant in the parameters.
        seed: of the training.
        weights: released or own checkpoint.
        text: cached embeddings of each benchmark's vocabulary; by default they are computed.
        out: folder for BENCHMARK.json, pictures in BENCHMARK/, counts in BENCHMARK.statistics/.
    """
    from maftp.evaluation.runner import device_of, evaluate
    from maftp.gpus import leased
    from maftp.memory import keep_freed_memory
    from maftp.modeling.build import load_model

    keep_freed_memory()
    check_text(text, benchmarks)
    experiment = read_params(params)
    catalog, root = catalog_and_root(experiment)
    recipe = experiment.for_variant(variant)
    for name in benchmarks:
        catalog.benchmark(name)
    with leased(min(recipe.execution.gpus_per_worker, 1)):
        model = load_model(recipe, weights, device_of(recipe))
        for name, embeddings in zip(benchmarks, text or [None] * len(benchmarks), strict=True):
            evaluate(
                recipe,
                variant=variant,
                seed=seed,
                benchmark=name,
                weights=weights,
                catalog=catalog,
                root=root,
                out=out / f"{name}.json",
                overlays_dir=out / name,
                statistics_dir=out / f"{name}.statistics",
                embeddings=embeddings,
                model=model,
            )
