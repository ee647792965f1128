"""Commands that make the parts of the report: plots with their numbers, pictures, provenance."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from maftp.commands.parser import catalog_and_root, command, read_params

if TYPE_CHECKING:
    import pandas as pd

    from maftp.config import Params

FIGURES = ("scores", "protocols", "cost", "classes", "confusion", "drift", "ablations")


def add(commands: argparse._SubParsersAction) -> None:
    """Add these commands."""
    _add_figure(commands)
    _add_curves(commands)
    _add_provenance(commands)
    _add_drift(commands)
    _add_gallery(commands)


def _add_figure(commands: argparse._SubParsersAction) -> None:
    parser = command(commands, "figure", "Draw a plot of an experiment's results.", _figure)
    parser.add_argument("figure", choices=FIGURES)
    parser.add_argument("results", type=Path, help="results/EXPERIMENT")
    parser.add_argument("--benchmark", default="A-150", help="of confusion and drift (A-150)")
    parser.add_argument("--method", default="maftp", help="variant (maftp)")
    parser.add_argument("--baseline", default="fcclip", help="variant (fcclip)")
    parser.add_argument("--ablations", type=Path, help="table of ablations to plot")
    parser.add_argument("--out", type=Path, required=True, help=".png to write")
    parser.add_argument("--numbers", type=Path, required=True, help=".csv of what is plotted")


def _figure(options: argparse.Namespace) -> None:
    from maftp.report.csv_file import write_csv

    draw: dict[str, Callable[[argparse.Namespace, Params], pd.DataFrame]] = {
        "scores": _scores,
        "protocols": _protocols,
        "cost": _cost,
        "classes": _classes,
        "confusion": _confusion,
        "drift": _drift_figure,
        "ablations": _ablations,
    }
    numbers = draw[options.figure](options, read_params(options))
    write_csv(numbers, options.numbers)


def _scores(options: argparse.Namespace, params: Params) -> pd.DataFrame:
    from maftp.report.runs import find_runs
    from maftp.report.score_plots import plot_scores

    runs = find_runs(options.results, list(params.variants), params.seeds)
    return plot_scores(runs, params.benchmarks, options.out)


def _protocols(options: argparse.Namespace, params: Params) -> pd.DataFrame:
    from maftp.report.runs import find_runs
    from maftp.report.score_plots import plot_protocols

    runs = find_runs(options.results, list(params.variants), params.seeds)
    return plot_protocols(runs, params.benchmarks, options.out)


def _cost(options: argparse.Namespace, params: Params) -> pd.DataFrame:
    from maftp.report.ablations import read_ablations
    from maftp.report.runs import find_runs
    from maftp.report.score_plots import plot_cost

    runs = find_runs(options.results, list(params.variants), params.seeds)
    ablations = None if options.ablations is None else read_ablations(options.ablations)
    return plot_cost(runs, params.benchmarks, ablations, options.out)


def _classes(options: argparse.Namespace, params: Params) -> pd.DataFrame:
    from maftp.report.class_plots import plot_classes
    from maftp.report.runs import find_runs

    method = find_runs(options.results, [options.method], params.seeds)
    baseline = find_runs(options.results, [options.baseline], params.seeds)
    return plot_classes(method, baseline, params.benchmarks, options.out)


def _confusion(options: argparse.Namespace, params: Params) -> pd.DataFrame:
    from maftp.report.class_plots import plot_confusion
    from maftp.report.runs import find_runs

    run = find_runs(options.results, [options.method], params.seeds[:1])[0]
    return plot_confusion(run, options.benchmark, options.out)


def _drift_figure(options: argparse.Namespace, params: Params) -> pd.DataFrame:
    from maftp.report.method_plots import plot_drift, read_drift

    titles = {variant: variant for variant in params.variants}
    seeds = params.seeds
    if options.ablations is not None:
        titles = {row.title: row.run for row in params.grid.rows if row.study == "parts"}
        seeds = params.ablations.seeds or seeds
    files = {
        title: [options.results / run / f"seed{seed}" / "drift.json" for seed in seeds]
        for title, run in titles.items()
    }
    # Variants that train nothing have no drift of their own.
    measured = {title: paths for title, paths in files.items() if paths[0].exists()}
    return plot_drift(read_drift(measured or files), options.out, benchmark=options.benchmark)


def _ablations(options: argparse.Namespace, params: Params) -> pd.DataFrame:
    from maftp.report.ablations import read_ablations
    from maftp.report.method_plots import plot_ablations

    table = read_ablations(options.ablations or options.results / "ablations.csv")
    return plot_ablations(table[table.experiment == params.experiment], options.out)


def _add_curves(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands, "curves", "Plot the losses of a run over its steps.", _curves, params=False
    )
    parser.add_argument("history", type=Path, help="history.csv of the run")
    parser.add_argument("--title", required=True)
    parser.add_argument("--out", type=Path, required=True, help=".png to write")


def _curves(options: argparse.Namespace) -> None:
    from maftp.report.figures import draw_learning_curves

    draw_learning_curves(options.history, options.out, title=options.title)


def _add_provenance(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands, "provenance", "Say what the runs of an experiment were made of.", _provenance
    )
    parser.add_argument("results", type=Path, help="results/EXPERIMENT")
    parser.add_argument("--out", type=Path, required=True, help=".csv to write")


def _provenance(options: argparse.Namespace) -> None:
    from maftp.report.csv_file import write_csv
    from maftp.report.provenance import provenance_table
    from maftp.report.runs import find_runs

    params = read_params(options)
    runs = find_runs(options.results, list(params.variants), params.seeds)
    table = provenance_table(runs, params.benchmarks)
    write_csv(table, options.out)


def _add_drift(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands, "drift", "Measure how far fine-tuning moved CLIP, on true regions.", _drift
    )
    parser.add_argument("benchmark", help="semantic, such as A-150")
    parser.add_argument("--variant", default="maftp", help="variant in the parameters (maftp)")
    parser.add_argument("--seed", type=int, default=0, help="of the training (0)")
    parser.add_argument("--weights", type=Path, required=True, help="fine-tuned checkpoint")
    parser.add_argument("--clip", type=Path, required=True, help="the original CLIP's weights")
    parser.add_argument("--text", type=Path, help="cached embeddings of the vocabulary")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")


def _drift(options: argparse.Namespace) -> None:
    from maftp.inspection.drift import measure_drift

    params = read_params(options)
    catalog, root = catalog_and_root(params)
    measure_drift(
        params.for_variant(options.variant),
        variant=options.variant,
        seed=options.seed,
        benchmark=options.benchmark,
        weights=options.weights,
        clip=options.clip,
        catalog=catalog,
        root=root,
        out=options.out,
        embeddings=options.text,
    )


def _add_gallery(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands, "gallery", "Draw the best, median and worst images of a benchmark.", _gallery
    )
    parser.add_argument("benchmark", help="semantic, such as A-150")
    parser.add_argument("--method", required=True, help="variant")
    parser.add_argument("--baseline", required=True, help="variant")
    parser.add_argument(
        "--weights", nargs=2, type=Path, required=True, help="of the method, of the baseline"
    )
    parser.add_argument("--statistics", type=Path, required=True, help="of the method")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")


def _gallery(options: argparse.Namespace) -> None:
    from maftp.inspection.gallery import Contender, draw_gallery

    params = read_params(options)
    catalog, root = catalog_and_root(params)
    method, baseline = (
        Contender(name, params.for_variant(name), path)
        for name, path in zip((options.method, options.baseline), options.weights, strict=True)
    )
    draw_gallery(
        (method, baseline),
        benchmark=options.benchmark,
        statistics=options.statistics,
        catalog=catalog,
        root=root,
        out=options.out,
    )
