"""`maftp runs ...`: finished runs, in MLflow and side by side."""

from __future__ import annotations

from pathlib import Path

from cyclopts import App

from maftp.cli.options import PARAMS, ParamFiles, read_params
from maftp.credentials import without_credentials
from maftp.errors import MaftpError

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
    import tempfile

    from maftp.report.training_plots import plot_losses
    from maftp.results import HISTORY, Run
    from maftp.tracking.mlflow_runs import log_run
    from maftp.tracking.mlflow_store import MlflowStore

    store = MlflowStore.from_params(read_params(params))
    try:
        with tempfile.TemporaryDirectory() as folder:
            for run in map(Run, runs):
                pictures = []
                if run.history:
                    pictures = [Path(folder) / "learning_curves.png"]
                    plot_losses(run.path / HISTORY, pictures[0], title=run.name)
                log_run(store, run, table=table, pictures=pictures)
    except MaftpError:
        raise
    except Exception as error:  # whatever a server or its database answers
        reason = without_credentials(" ".join(str(error).split())[:300])
        raise MaftpError(
            f"MLflow at {store.address} failed ({reason}); nothing is lost, log the runs again "
            "later with `maftp runs log`"
        ) from error


@runs.command
def compare(first: str, second: str, /, *, params: ParamFiles = PARAMS) -> None:
    """Print in which parameters and numbers two runs differ.

    Args:
        first: [EXPERIMENT/]VARIANT[-seedN], or a run's folder.
        second: likewise.
    """
    from maftp.report.comparison import compare, find_run

    experiment = read_params(params).experiment
    print(compare(find_run(first, experiment), find_run(second, experiment)))
