"""`maftp diagnose`: where a model loses."""

from __future__ import annotations

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


def diagnose(
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
    """Measure where a model loses: masks, classes or void, by size, by class and by word.

    Args:
        benchmarks: semantic or panoptic, such as A-150 ADE-panoptic.
        variant: variant in the parameters.
        seed: of the training.
        weights: checkpoint of the model.
        text: cached embeddings of the benchmarks' vocabularies, in the same order.
        out: folder to write BENCHMARK.json into.
    """
    from maftp.evaluation.diagnosis import diagnose
    from maftp.gpus import leased

    check_text(text, benchmarks)
    experiment = read_params(params)
    catalog, root = catalog_and_root(experiment)
    with leased(min(experiment.execution.gpus_per_worker, 1)):
        diagnose(
            experiment.for_variant(variant),
            variant=variant,
            seed=seed,
            benchmarks=benchmarks,
            weights=weights,
            catalog=catalog,
            root=root,
            out=out,
            embeddings=text,
        )
