"""`maftp figure | curves | drift | gallery | provenance`: the parts of the report."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from maftp.cli.options import PARAMS, NewFile, NewFolder, ParamFiles, catalog_and_root, read_params

if TYPE_CHECKING:
    import pandas as pd

    from maftp.config import Params

logger = logging.getLogger("maftp")


def figure(
    kind: Literal[
        *("scores", "protocols", "cost", "classes", "confusion", "drift", "ablations"),
        *("gap", "recall", "naming", "calibration", "words"),
    ],
    results: Path,
    /,
    *,
    benchmark: str = "A-150",
    method: str = "maftp",
    baseline: str = "fcclip",
    ablations: Path | None = None,
    out: NewFile,
    numbers: NewFile,
    params: ParamFiles = PARAMS,
) -> None:
    """Draw a plot of an experiment's results.

    Args:
        kind: what is plotted.
        results: results/EXPERIMENT.
        benchmark: of confusion, drift and what diagnoses measured.
        method: variant.
        baseline: variant.
        ablations: table of ablations to plot.
        out: .png to write.
        numbers: .csv of what is plotted.
    """
    from maftp.errors import MaftpError
    from maftp.report.ablations import read_ablations
    from maftp.report.class_plots import plot_classes, plot_confusion
    from maftp.report.csv_file import write_csv
    from maftp.report.method_plots import plot_ablations
    from maftp.report.score_plots import plot_cost, plot_protocols, plot_scores
    from maftp.results import find_runs

    experiment = read_params(params)
    benchmarks, seeds = experiment.benchmarks, experiment.seeds

    def runs(variants: Sequence[str]) -> list:
        return find_runs(results, variants, seeds)

    match kind:
        case "scores":
            plotted = plot_scores(runs(experiment.variants), benchmarks, out)
        case "protocols":
            plotted = plot_protocols(runs(experiment.variants), benchmarks, out)
        case "cost":
            table = None if ablations is None else read_ablations(ablations)
            plotted = plot_cost(runs(experiment.variants), benchmarks, table, out)
        case "classes":
            plotted = plot_classes(runs([method]), runs([baseline]), benchmarks, out)
        case "confusion":
            run = find_runs(results, [method], seeds[:1])[0]
            plotted = plot_confusion(run, benchmark, out)
        case "drift":
            plotted = _plot_drift(experiment, results, ablations, benchmark, out)
        case "ablations":
            if ablations is None:
                raise MaftpError("--ablations: name the table of ablations")
            table = read_ablations(ablations)
            plotted = plot_ablations(table[table.experiment == experiment.experiment], out)
        case _:
            plotted = _plot_diagnosis(kind, experiment, results, ablations, benchmark, out)
    write_csv(plotted, numbers)


def _plot_drift(
    params: Params, results: Path, ablations: Path | None, benchmark: str, out: Path
) -> pd.DataFrame:
    from maftp.report.method_plots import plot_drift, read_drift
    from maftp.results import DRIFT, find_runs

    titles = {variant: variant for variant in params.variants}
    seeds = params.seeds
    if ablations is not None:
        titles = {row.title: row.run for row in params.grid.rows if row.study == "parts"}
        seeds = params.ablations.seeds or seeds
    runs = {title: find_runs(results, [run], seeds) for title, run in titles.items()}
    # Variants that train nothing have no drift of their own.
    measured = {title: own for title, own in runs.items() if (own[0].path / DRIFT).exists()}
    return plot_drift(read_drift(measured or runs), out, benchmark=benchmark)


def _plot_diagnosis(
    kind: str, params: Params, results: Path, ablations: Path | None, benchmark: str, out: Path
) -> pd.DataFrame:
    """Plot one number of every diagnosed run; of several seeds the first is diagnosed."""
    from maftp.report.diagnosis_plots import PLOTS
    from maftp.results import find_runs

    titles = {variant: (variant, params.seeds) for variant in params.variants}
    if ablations is not None:
        seeds = params.ablations.seeds or params.seeds
        rows = [row for row in params.grid.rows if row.study == "parts"]
        titles |= {f"{row.title} (ablation)": (row.run, seeds) for row in rows}
    runs = {
        title: find_runs(results, [run], seeds[:1])[0] for title, (run, seeds) in titles.items()
    }
    plotted, sentence = PLOTS[kind](
        {t: run for t, run in runs.items() if run.diagnosed}, benchmark, out
    )
    logger.info("%s", sentence)
    return plotted


def curves(history: Path, /, *, title: str, out: NewFile) -> None:
    """Plot the losses of a run over its steps.

    Args:
        history: history.csv of the run.
        title: line above the plot.
        out: .png to write.
    """
    from maftp.report.training_plots import plot_losses

    plot_losses(history, out, title=title)


def provenance(results: Path, /, *, out: NewFile, params: ParamFiles = PARAMS) -> None:
    """Say what the runs of an experiment were made of.

    Args:
        results: results/EXPERIMENT.
        out: .csv to write.
    """
    from maftp.report.csv_file import write_csv
    from maftp.report.provenance import provenance_table
    from maftp.results import find_runs

    experiment = read_params(params)
    runs = find_runs(results, experiment.variants, experiment.seeds)
    write_csv(provenance_table(runs, experiment.benchmarks), out)


def drift(
    benchmark: str,
    /,
    *,
    variant: str = "maftp",
    seed: int = 0,
    weights: Path,
    clip: Path,
    text: Path | None = None,
    out: NewFile,
    params: ParamFiles = PARAMS,
) -> None:
    """Measure how far fine-tuning moved CLIP, on true regions.

    Args:
        benchmark: semantic, such as A-150.
        variant: variant in the parameters.
        seed: of the training.
        weights: fine-tuned checkpoint.
        clip: the original CLIP's weights.
        text: cached embeddings of the vocabulary.
        out: JSON file to write.
    """
    from maftp.evaluation.drift import measure_drift
    from maftp.gpus import leased

    experiment = read_params(params)
    catalog, root = catalog_and_root(experiment)
    with leased(min(experiment.execution.gpus_per_worker, 1)):
        measure_drift(
            experiment.for_variant(variant),
            variant=variant,
            seed=seed,
            benchmark=benchmark,
            weights=weights,
            clip=clip,
            catalog=catalog,
            root=root,
            out=out,
            embeddings=text,
        )


def gallery(
    benchmark: str,
    /,
    *,
    method: str,
    baseline: str,
    weights: tuple[Path, Path],
    statistics: Path,
    out: NewFolder,
    params: ParamFiles = PARAMS,
) -> None:
    """Draw the best, median and worst images of a benchmark.

    Args:
        benchmark: semantic, such as A-150.
        method: variant.
        baseline: variant.
        weights: of the method, of the baseline.
        statistics: counts per image of the method.
        out: folder to write.
    """
    from maftp.evaluation.gallery import GalleryModel, draw_gallery
    from maftp.gpus import leased

    experiment = read_params(params)
    catalog, root = catalog_and_root(experiment)
    first, second = (
        GalleryModel(name, experiment.for_variant(name), path)
        for name, path in zip((method, baseline), weights, strict=True)
    )
    with leased(min(experiment.execution.gpus_per_worker, 1)):
        draw_gallery(
            (first, second),
            benchmark=benchmark,
            statistics=statistics,
            catalog=catalog,
            root=root,
            out=out,
        )
