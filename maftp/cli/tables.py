"""`maftp scores | table | merge-tables | ablations`: tables of results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from maftp.cli.options import PARAMS, NewFile, NewFolder, ParamFiles, Several, read_params


def scores(
    folder: Path,
    /,
    *,
    benchmarks: Annotated[tuple[str, ...] | None, Several] = None,
    metrics: NewFile,
    plots: NewFolder,
    params: ParamFiles = PARAMS,
) -> None:
    """Write the scores of a run for dvc metrics and dvc plots.

    Args:
        folder: results/EXPERIMENT/VARIANT/seedN.
        benchmarks: which to read; by default `benchmarks` of the parameters.
        metrics: .json file to write.
        plots: folder of .csv files to write.
    """
    from maftp.report.scores import write_metrics, write_plots
    from maftp.results import Run

    run = Run(folder)
    results = [run.evaluation(name) for name in benchmarks or read_params(params).benchmarks]
    write_metrics(results, metrics)
    write_plots(results, plots)


def table(
    runs: tuple[Path, ...], /, *, out: NewFile, markdown: NewFile, params: ParamFiles = PARAMS
) -> None:
    """Gather the scores of an experiment's runs into a table.

    Args:
        runs: results/EXPERIMENT/VARIANT/seedN.
        out: .csv file to write.
        markdown: .md file for people.
    """
    from maftp.report.tables import experiment_table, write_table

    table = experiment_table(runs, benchmarks=read_params(params).benchmarks)
    write_table(table, out, markdown)


def merge_tables(tables: tuple[Path, ...], /, *, out: NewFile, markdown: NewFile) -> None:
    """Join the tables of experiments.

    Args:
        tables: results/EXPERIMENT/table.csv.
        out: .csv file to write.
        markdown: .md file for people.
    """
    from maftp.report.tables import merge_tables

    merge_tables(tables, out, markdown)


def ablations(
    results: Path, /, *, out: NewFile, markdown: NewFile, params: ParamFiles = PARAMS
) -> None:
    """Gather the scores of the ablation grid's runs.

    Args:
        results: results/EXPERIMENT.
        out: .csv file to write.
        markdown: .md file for people.
    """
    from maftp.report.ablations import ablation_table, write_ablations

    experiment = read_params(params)
    grid = experiment.grid
    table = ablation_table(
        grid,
        results,
        experiment=experiment.experiment,
        benchmarks=experiment.ablations.benchmarks or experiment.benchmarks,
        seeds=experiment.ablations.seeds or experiment.seeds,
    )
    write_ablations([table], out, markdown)
