"""`maftp runs ...`: finished runs in MLflow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import App

from maftp.cli.options import PARAMS, ParamFiles, read_params
from maftp.credentials import without_credentials
from maftp.errors import MaftpError

if TYPE_CHECKING:
    from maftp.tracking.comparison import Comparison
    from maftp.tracking.mlflow_store import MlflowStore

runs = App(name="runs", help="Log finished runs to MLflow, or compare two of them.")


@runs.command
def log(
    runs: tuple[Path, ...], /, *, table: Path | None = None, params: ParamFiles = PARAMS
) -> None:
    """Log runs from their files: evaluations, pictures, table, registered weights.

    Args:
        runs: results/EXPERIMENT/VARIANT/seedN.
        table: table.csv with their rows.
    """
    from maftp.tracking.run_record import read_run

    records = [read_run(run) for run in runs]
    store = _store(params)
    with _mlflow_named(store, "nothing is lost, log the runs again later with `maftp runs log`"):
        _log_all(store, records, table)


@runs.command
def compare(first: str, second: str, /, *, params: ParamFiles = PARAMS) -> None:
    """Print in which parameters and numbers two runs differ.

    Args:
        first: [EXPERIMENT/]VARIANT[-seedN], a run's folder, or a run id.
        second: likewise.
    """
    from maftp.tracking.comparison import compare

    store = _store(params)
    with _mlflow_named(store, "start the server, or set $MLFLOW_TRACKING_URI to one that answers"):
        found = compare(store, first, second)
    print(_text(found))


@contextmanager
def _mlflow_named(store: MlflowStore, advice: str) -> Iterator[None]:
    """Turn whatever a server or its database answers into one sentence."""
    try:
        yield
    except MaftpError:
        raise
    except Exception as error:
        reason = without_credentials(" ".join(str(error).split())[:300])
        raise MaftpError(f"MLflow at {store.address} failed ({reason}); {advice}") from error


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


def _store(files: Sequence[Path]) -> MlflowStore:
    from maftp.tracking.mlflow_store import MlflowStore, server_uri

    params = read_params(files)
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
