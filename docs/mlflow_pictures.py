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
        runs = rows(uri, experiment)
        open_view(page, address, runs, "scores")
        take(page, folder / "mlflow_scores.png")
        compare_runs(page, [run for run in runs if "shuffled" not in run.info.run_name])
        take(page, folder / "mlflow_compare.png")
        open_view(page, address, runs, "losses")
        take(page, folder / "mlflow_losses.png")


@contextmanager
def serving(uri: str) -> Iterator[str]:
    """Run MLflow's server on a free port and yield its address."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    address = f"http://127.0.0.1:{port}"
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | quiet
    ) as server:
        try:
            wait_for(f"{address}/health", server)
            yield address
        finally:
            server.terminate()


def free_port() -> int:
    """Return a port of the loopback address that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(address: str, server: subprocess.Popen) -> None:
    """Wait until a page is served.

    Raises:
        RuntimeError: its server has ended, or does not answer in time.
    """
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise RuntimeError(f"{address} was not served")


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


def rows(uri: str, experiment: str) -> list[Run]:
    """Return the runs of an experiment that are rows of its table, by name."""
    client = MlflowClient(tracking_uri=uri)
    found = client.get_experiment_by_name(experiment)
    runs = client.search_runs([found.experiment_id])
    top = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    return sorted(top, key=lambda run: run.info.run_name, reverse=True)


def open_view(page: Page, address: str, runs: Sequence[Run], view: str) -> None:
    """Open the charts of an experiment in one of the layouts that `maftp runs log` offers."""
    page.goto(f"{address}/")
    page.get_by_text("Model training", exact=True).first.click()
    page.goto(
        f"{address}/#/experiments/{runs[0].info.experiment_id}/runs"
        f"?viewStateShareKey={view}&compareRunsMode=CHART"
    )
    page.get_by_text(runs[0].info.run_name).first.wait_for()


def compare_runs(page: Page, runs: Sequence[Run]) -> None:
    """Tick runs in their table and press Compare."""
    for run in runs:
        name = page.get_by_text(run.info.run_name, exact=True)
        page.get_by_role("row").filter(has=name).first.get_by_role("checkbox").first.check()
    page.get_by_role("button", name="Compare").first.click()
    page.wait_for_url("**/compare-runs*")


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
