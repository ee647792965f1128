"""`maftp scores | table | show | merge-tables | ablations | zoo`: tables of results."""

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
    params: ParamFiles = PARAMS,
) -> None:
    """Gather the scores of an experiment's runs into a table; write the cards of trained weights.

    Args:
        runs: results/EXPERIMENT/VARIANT/seedN.
        out: .csv file to write.
        markdown: .md file for people.
        differences: .csv file of what variants differ from the baseline, with intervals.
    """
    from maftp.report.csv_file import write_csv
    from maftp.report.differences import difference_table
    from maftp.report.model_card import write_cards
    from maftp.report.tables import experiment_table, write_table
    from maftp.results import Run

    experiment = read_params(params)
    table = experiment_table(runs, benchmarks=experiment.benchmarks)
    found = [Run(run) for run in runs]
    compared = difference_table(found, experiment.compared_with, experiment.benchmarks)
    write_cards(found)
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
    """Gather the scores of the ablation grid's runs; write the cards of trained weights.

    Args:
        results: results/EXPERIMENT.
        out: .csv file to write.
        markdown: .md file for people.
    """
    from maftp.grid import PREFIX
    from maftp.report.ablations import ablation_table, write_ablations
    from maftp.report.model_card import write_cards
    from maftp.results import find_runs

    experiment = read_params(params)
    grid = experiment.grid
    seeds = experiment.ablations.seeds or experiment.seeds
    table = ablation_table(
        grid,
        results,
        experiment=experiment.experiment,
        benchmarks=experiment.ablations.benchmarks or experiment.benchmarks,
        seeds=seeds,
    )
    write_cards(find_runs(results, [run for run in grid.runs if run.startswith(PREFIX)], seeds))
    write_ablations([table], out, markdown)


def zoo() -> None:
    """Print the page of all experiments, weights and scores, docs/zoo.md."""
    from maftp.api import DEFAULT_EXPERIMENT, DEFAULT_PARAMS, EXPERIMENTS
    from maftp.config import load_params
    from maftp.report.zoo import zoo_page

    found = {path.stem: load_params(DEFAULT_PARAMS, path) for path in EXPERIMENTS.glob("*.yaml")}
    first = {DEFAULT_EXPERIMENT: load_params(DEFAULT_PARAMS)}
    print(zoo_page(first | dict(sorted(found.items()))), end="")
