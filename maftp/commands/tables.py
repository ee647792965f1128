"""Commands that write tables of results."""

from __future__ import annotations

import argparse
from pathlib import Path

from maftp.commands.parser import command, read_params


def add(commands: argparse._SubParsersAction) -> None:
    """Add these commands."""
    _add_scores(commands)
    _add_table(commands)
    _add_merge_tables(commands)
    _add_ablations(commands)


def _add_scores(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands, "scores", "Write the scores of a run for dvc metrics and dvc plots.", _scores
    )
    parser.add_argument("folder", type=Path, help="results/EXPERIMENT/VARIANT/seedN")
    parser.add_argument(
        "--benchmarks", nargs="+", help="which to read (default: `benchmarks` of the parameters)"
    )
    parser.add_argument("--metrics", type=Path, required=True, help=".json file to write")
    parser.add_argument("--plots", type=Path, required=True, help="folder of .csv files to write")


def _scores(options: argparse.Namespace) -> None:
    from maftp.report.scores import read_results, write_metrics, write_plots

    benchmarks = options.benchmarks or read_params(options).benchmarks
    results = read_results(options.folder, benchmarks=benchmarks)
    write_metrics(results, options.metrics)
    write_plots(results, options.plots)


def _add_table(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands, "table", "Gather the scores of an experiment's runs into a table.", _table
    )
    parser.add_argument("runs", nargs="+", type=Path, help="results/EXPERIMENT/VARIANT/seedN")
    _add_table_outputs(parser)


def _table(options: argparse.Namespace) -> None:
    from maftp.report.tables import experiment_table, write_table

    table = experiment_table(options.runs, benchmarks=read_params(options).benchmarks)
    write_table(table, options.out, options.markdown)


def _add_merge_tables(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands, "merge-tables", "Join the tables of experiments.", _merge_tables, params=False
    )
    parser.add_argument("tables", nargs="+", type=Path, help="results/EXPERIMENT/table.csv")
    _add_table_outputs(parser)


def _merge_tables(options: argparse.Namespace) -> None:
    from maftp.report.tables import merge_tables

    merge_tables(options.tables, options.out, options.markdown)


def _add_ablations(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands, "ablations", "Gather the scores of the ablation grid's runs.", _ablations
    )
    parser.add_argument("results", type=Path, help="results/EXPERIMENT")
    _add_table_outputs(parser)


def _ablations(options: argparse.Namespace) -> None:
    from maftp.report.ablations import ablation_table, write_ablations

    params = read_params(options)
    grid = params.grid
    table = ablation_table(
        grid,
        options.results,
        experiment=params.experiment,
        benchmarks=params.ablations.benchmarks or params.benchmarks,
        seeds=params.ablations.seeds or params.seeds,
    )
    write_ablations([table], options.out, options.markdown)


def _add_table_outputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help=".csv file to write")
    parser.add_argument("--markdown", type=Path, required=True, help=".md file for people")
