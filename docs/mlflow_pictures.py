"""Take docs/mlflow_*.png from the real MLflow page of a finished experiment, in headless Chromium.

    python docs/mlflow_pictures.py [sqlite:///results/mlflow.db] [miniature] [docs]

Needs Debian's `chromium`, which is not part of the environment, and its package `playwright`.
"""  # noqa: D208

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError

from mlflow import MlflowClient
from mlflow.entities import Run
from playwright.sync_api import Browser, Page, sync_playwright

PROJECT = Path(__file__).resolve().parent.parent
BROWSER_ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--no-first-run",
)  # fmt: skip
WIDTH, HEIGHT = 1500, 950
SHOWN = {"x": 0, "y": 0, "width": 1110, "height": 950}
"""What is kept of it: not the assistant at the right."""
_START_SECONDS = 600
_PAGE_MILLISECONDS = 300_000


def main(uri: str, experiment: str, folder: Path) -> None:
    """Take all pictures of an experiment."""
    with serving(uri) as address, browsing() as browser:
        page = open_page(browser)
        names = ("maftp-seed0", "fcclip-seed0")
        runs = [run for run in trainings(uri, experiment) if run.info.run_name in names]
        take(open_runs(page, address, runs), folder / "mlflow_runs.png")
        compare_runs(page, [run.info.run_name for run in runs])
        take(page, folder / "mlflow_compare.png")
        take(open_curves(page, address, runs[0]), folder / "mlflow_curves.png")


@contextmanager
def serving(uri: str) -> Iterator[str]:
    """Run MLflow's server on a free port and yield its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    address = f"http://127.0.0.1:{port}"
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | quiet
    ) as server:
        try:
            _wait_for(address, server)
            yield address
        finally:
            server.terminate()


def _wait_for(address: str, server: subprocess.Popen) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise RuntimeError("the MLflow server did not start")
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5):
                return
        except (URLError, OSError):
            time.sleep(0.5)
    raise TimeoutError("the MLflow server does not answer")


@contextmanager
def browsing() -> Iterator[Browser]:
    """Yield Debian's Chromium without a window."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=list(BROWSER_ARGUMENTS)
        )
        try:
            yield browser
        finally:
            browser.close()


def open_page(browser: Browser) -> Page:
    """Open an empty page of the pictures' size."""
    page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
    page.set_default_timeout(_PAGE_MILLISECONDS)
    return page


def trainings(uri: str, experiment: str) -> list[Run]:
    """Return the runs of an experiment that are rows of its table, by name."""
    client = MlflowClient(tracking_uri=uri)
    found = client.get_experiment_by_name(experiment)
    runs = client.search_runs([found.experiment_id])
    rows = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    return sorted(rows, key=lambda run: run.info.run_name, reverse=True)


def open_runs(page: Page, address: str, runs: Sequence[Run]) -> Page:
    """Open the table of an experiment's runs."""
    page.goto(f"{address}/#/experiments/{runs[0].info.experiment_id}/runs")
    for run in runs:
        page.get_by_text(run.info.run_name, exact=True).first.wait_for()
    return page


def compare_runs(page: Page, names: Sequence[str]) -> None:
    """Tick runs in their table and press Compare."""
    for name in names:
        row = page.get_by_role("row").filter(has=page.get_by_text(name, exact=True)).first
        row.get_by_role("checkbox").first.check()
    page.get_by_role("button", name="Compare").first.click()
    page.wait_for_url("**/compare-runs*")


def open_curves(page: Page, address: str, run: Run) -> Page:
    """Open the curves of one run."""
    info = run.info
    page.goto(f"{address}/#/experiments/{info.experiment_id}/runs/{info.run_id}/model-metrics")
    page.get_by_placeholder("Search metric charts").fill("loss")
    page.get_by_text("loss_ce", exact=True).first.wait_for()
    return page


def take(page: Page, path: Path) -> None:
    """Save what the page shows after some seconds; it never stops asking the server."""
    page.wait_for_timeout(6000)
    page.screenshot(path=str(path), clip=SHOWN)


if __name__ == "__main__":
    given = sys.argv[1:]
    main(
        given[0] if given else f"sqlite:///{PROJECT}/results/mlflow.db",
        given[1] if len(given) > 1 else "miniature",
        Path(given[2]) if len(given) > 2 else PROJECT / "docs",
    )
