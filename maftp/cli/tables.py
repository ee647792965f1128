"""`maftp scores | table | show | merge-tables | ablations`: tables of results."""

from __future__ import annotations

from pathlib import Path

from maftp.cli.options import PARAMS, NewFile, ParamFiles, read_params


def scores(
    runs: tuple[Path, ...],
    /,
    *,
    metrics: NewFile,
    classes: NewFile,
    history: NewFile,
    params: ParamFiles = PARAMS,
) -> None:
    """Write the scores and losses of an experiment's runs for dvc metrics and dvc plots.

    Args:
        runs: results/EXPERIMENT/VARIANT/seedN.
        metrics: .json file of the main scores.
        classes: .csv file of the scores of each class.
        history: .csv file of the rows of all trainings.
    """
    from maftp.report.scores import write_history, write_metrics, write_scores
    from maftp.results import Run

    found, benchmarks = [Run(run) for run in runs], read_params(params).benchmarks
    write_metrics(found, benchmarks, metrics)
    write_scores(found, benchmarks, classes)
    write_history(found, history)


def table(
    runs: tuple[Path, ...],
    /,
    *,
    out: NewFile,
    markdown: NewFile,
    differences: NewFile,
    baseline: str = "fcclip",
    params: ParamFiles = PARAMS,
) -> None:
    """Gather the scores of an experiment's runs into a table.

    Args:
        runs: results/EXPERIMENT/VARIANT/seedN.
        out: .csv file to write.
        markdown: .md file for people.
        differences: .csv file of what variants differ from the baseline, with intervals.
        baseline: variant that all others are compared with.
    """
    from maftp.report.csv_file import write_csv
    from maftp.report.differences import difference_table
    from maftp.report.tables import experiment_table, write_table
    from maftp.results import Run

    benchmarks = read_params(params).benchmarks
    table = experiment_table(runs, benchmarks=benchmarks)
    compared = difference_table([Run(run) for run in runs], baseline, benchmarks)
    write_csv(compared, differences, decimals=3)
    write_table(table, out, markdown, differences=compared)


def show(table: Path = Path("results/table.csv"), /) -> None:
    """Print a table of results in the terminal.

    Args:
        table: results/table.csv, or results/EXPERIMENT/table.csv.
    """
    from rich.console import Console

    from maftp.report.terminal import show_results

    show_results(table, Console(highlight=False))


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
