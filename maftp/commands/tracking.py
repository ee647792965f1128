"""Commands about runs in MLflow: `maftp runs log`, `maftp runs compare`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich_argparse import RichHelpFormatter

from maftp.commands.parser import command, read_params

if TYPE_CHECKING:
    from maftp.tracking.comparison import Comparison
    from maftp.tracking.mlflow_store import MlflowStore


def add(commands: argparse._SubParsersAction) -> None:
    """Add these commands."""
    text = "Log finished runs to MLflow, or compare two of them."
    group = commands.add_parser(
        "runs", help=text, description=text, formatter_class=RichHelpFormatter
    )
    topics = group.add_subparsers(dest="topic", required=True, metavar="TOPIC")
    _add_log(topics)
    _add_compare(topics)


def _add_log(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands,
        "log",
        "Log runs from their files: evaluations, pictures, table, registered weights.",
        _log,
    )
    parser.add_argument("runs", nargs="+", type=Path, help="results/EXPERIMENT/VARIANT/seedN")
    parser.add_argument("--table", type=Path, help="table.csv with their rows")


def _log(options: argparse.Namespace) -> None:
    import logging

    from maftp.tracking.run_record import read_run

    records = [read_run(run) for run in options.runs]
    store = _store(options)
    try:
        _log_all(store, records, options.table)
    except Exception as error:  # whatever a server answers, the table is there
        reason = " ".join(str(error).split())[:200]
        logging.getLogger(__name__).debug("MLflow failed", exc_info=True)
        logging.getLogger(__name__).warning(
            "MLflow at %s failed (%s); log the runs again later with `maftp runs log`",
            store.uri, reason,
        )  # fmt: skip


def _log_all(store: MlflowStore, records: Sequence, table: Path | None) -> None:
    import tempfile

    from maftp.report.figures import draw_learning_curves
    from maftp.tracking.mlflow_runs import log_run

    with tempfile.TemporaryDirectory() as folder:
        for record in records:
            pictures = []
            if record.history:
                pictures = [Path(folder) / "learning_curves.png"]
                draw_learning_curves(record.folder / "history.csv", pictures[0], title=record.name)
            log_run(store, record, table=table, pictures=pictures)


def _add_compare(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands,
        "compare",
        "Print in which parameters and numbers two runs differ.",
        _compare,
    )
    for name in ("first", "second"):
        parser.add_argument(name, help="[EXPERIMENT/]VARIANT[-seedN], a run's folder, or a run id")


def _compare(options: argparse.Namespace) -> None:
    from maftp.tracking.comparison import compare

    print(_text(compare(_store(options), options.first, options.second)))


def _store(options: argparse.Namespace) -> MlflowStore:
    from maftp.tracking.mlflow_store import MlflowStore, server_uri

    params = read_params(options)
    return MlflowStore(uri=server_uri(params.tracking.uri), experiment=params.experiment)


def _text(found: Comparison) -> str:
    from tabulate import tabulate

    numbers = [
        [name, a, b, None if a is None or b is None else b - a]
        for name, (a, b) in found.metrics.items()
    ]
    parts = [
        ("parameters that differ", [[k, *pair] for k, pair in found.params.items()], []),
        ("origin that differs", [[k, *pair] for k, pair in found.origin.items()], []),
        ("numbers", numbers, ["second - first"]),
    ]
    return "\n\n".join(
        tabulate(rows, headers=[title, *found.names, *more], tablefmt="github", floatfmt=".4g")
        for title, rows, more in parts
        if rows
    )
