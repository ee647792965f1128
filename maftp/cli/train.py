"""`maftp train` and `maftp evaluate`: one variant with one seed."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from maftp.cli.options import PARAMS, NewFile, NewFolder, ParamFiles, catalog_and_root, read_params


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
    from maftp.training.launch import launch
    from maftp.training.worker import prepare

    recipe = read_params(params).for_variant(variant)
    others = recipe.other_weights(seed)
    launch(
        recipe,
        variant=variant,
        seed=seed,
        clip=clip,
        embeddings=text,
        out=out,
        inputs=[
            manifest_path(datasets_root(recipe.data.root), recipe.data.train),
            *others.values(),
        ],
        prepare=partial(prepare, **others),
        attempt=attempt,
    )


def evaluate(
    benchmark: str,
    /,
    *,
    variant: str = "maftp",
    seed: int = 0,
    weights: Path,
    text: Path | None = None,
    out: NewFile,
    overlays: NewFolder | None = None,
    statistics: NewFolder | None = None,
    params: ParamFiles = PARAMS,
) -> None:
    """Score a checkpoint on one benchmark and draw pictures.

    Args:
        benchmark: name in the catalog, such as A-150.
        variant: variant in the parameters.
        seed: of the training.
        weights: released or own checkpoint.
        text: cached embeddings of the vocabulary.
        out: JSON file to write.
        overlays: folder of pictures to write.
        statistics: folder of counts per image to write.
    """
    from maftp.evaluation.runner import evaluate

    experiment = read_params(params)
    catalog, root = catalog_and_root(experiment)
    evaluate(
        experiment.for_variant(variant),
        variant=variant,
        seed=seed,
        benchmark=benchmark,
        weights=weights,
        catalog=catalog,
        root=root,
        out=out,
        overlays_dir=overlays,
        statistics_dir=statistics,
        embeddings=text,
    )
