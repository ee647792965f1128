"""The official experiments from their first command to their tables, on a loopback host.

Official parameter files, archives in the official formats, pictures and models of real size; few
pictures, untrained weights, no GPU. `make rehearsal` runs all of it, `make full-test` the Base
model's released weights.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import psutil
import pytest
import yaml

from maftp.config import load_params
from maftp.data.catalog import load_catalog
from tests.rehearsal.host import Host
from tests.rehearsal.official import write_archives
from tests.rehearsal.weights import write_weights
from tests.workflow.conftest import BIN, ROOT, Checkout, make_checkout

pytestmark = [pytest.mark.slow, pytest.mark.long]
rehearsal = pytest.mark.rehearsal

HUB = {
    "convnext_base_w_320": "laion/CLIP-convnext_base_w_320-laion_aesthetic-s13B-b82K-augreg",
}
MOST_MEMORY_MB = 12_000
BASE = "maftp_base_released"
LARGE = "maftp_large_panoptic_released"
TRAINED = ("maftp_base", "fcclip_base")
# What differs from the official files, for a machine with two cores and no GPU.
SMALL = {
    "data": {"root": "datasets/official"},
    "execution": {"gpus_per_worker": 0, "workers": 1, "cpus_per_worker": 2, "loader_workers": 0},
    "evaluate": {"overlays": 1},
    "ablations": None,
}
TWO_STEPS = {
    "train": {"iterations": 2, "batch_size": 1, "amp": False},
    "benchmarks": ["PAS-20"],
    "execution": SMALL["execution"]
    | {"checkpoint_period": 1, "log_period": 1, "gradient_checkpointing": True},
}


@dataclass(frozen=True)
class Rehearsal:
    """A checkout, the host that its archives and weights come from, and what the user brought."""

    checkout: Checkout
    host: Host
    overlay: Path
    brought: dict[Path, str]
    """SHA-256 of each file that nothing may change."""
    changes: dict
    """What else differs from the official files."""

    def files(self, experiment: str, **changes) -> list[str]:
        """Return the parameter files of an experiment."""
        data = {"data": SMALL["data"] | {"catalog": str(self.overlay)}}
        values = SMALL | self.changes | data | changes
        (self.checkout.path / f"{experiment}.yaml").write_text(yaml.safe_dump(values))
        return [f"workflow/experiments/{experiment}.yaml", f"{experiment}.yaml"]

    def run(self, experiment: str, **changes) -> tuple[pd.DataFrame, int]:
        """Make the table of an experiment; return it and the most memory that was held, in MB."""
        memory = self.watch(self.command("results/table.csv", experiment, **changes))
        return pd.read_csv(self.checkout.path / "results/table.csv"), memory

    def watch(self, command: list[str]) -> int:
        """Run a command to its end; return the most memory that it and its children held, in MB."""
        log = self.checkout.path / "command.log"
        path = f"{BIN}:{os.environ['PATH']}"
        with open(log, "w") as file:
            process = subprocess.Popen(
                command, cwd=self.checkout.path, env=os.environ | {"PATH": path},
                stdout=file, stderr=subprocess.STDOUT,
            )  # fmt: skip
            memory = 0
            while process.poll() is None:
                memory = max(memory, memory_held(process.pid))
                time.sleep(0.5)
        assert process.returncode == 0, f"{command}\n{log.read_text()}"
        return memory

    def command(self, target: str, experiment: str, **changes) -> list[str]:
        files = self.files(experiment, **changes)
        return [
            str(BIN / "snakemake"), "--cores", "2", "--rerun-incomplete", target,
            "--configfile", *files,
        ]  # fmt: skip

    def interrupt(self, command: list[str], seconds: float) -> None:
        """Run a command and stop it after some seconds, as a cluster stops a job."""
        process = subprocess.Popen(
            command, cwd=self.checkout.path, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()

    def assert_nothing_brought_is_lost(self, after: str) -> None:
        for path, digest in self.brought.items():
            assert path.exists() and sha256(path) == digest, f"{path} after {after}"


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def memory_held(pid: int) -> int:
    """Return the MB that a process and its descendants hold, shared pages once for each."""
    total = 0
    try:
        root = psutil.Process(pid)
        processes = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in processes:
        try:
            memory = process.memory_info()
        except psutil.NoSuchProcess:
            continue
        total += memory.rss - getattr(memory, "shared", 0)
    return total >> 20


@pytest.fixture(scope="module")
def official(tmp_path_factory, request) -> Iterator[Rehearsal]:
    # `make full-test` scores two benchmarks, and embeds a name in one sentence instead of 14.
    smaller = {"clip": {"templates": 1}, "benchmarks": ["A-847", "PAS-20"]}
    changes = smaller if "not rehearsal" in request.config.option.markexpr else {}
    folder = tmp_path_factory.mktemp("rehearsal")
    checkout = make_checkout(folder / "checkout")
    host = Host(folder / "served")
    overlay = write_archives(host.folder, host.url)
    params = load_params(ROOT / "params.yaml", ROOT / f"workflow/experiments/{BASE}.yaml")
    model = params.clip.model
    write_weights(
        params.for_variant("maftp"), classes=171, released=host.folder / "maftp_b.pth",
        clip=host.folder / f"{model}.safetensors",
    )  # fmt: skip
    host.hub[f"{HUB[model]}/open_clip_model.safetensors"] = f"{model}.safetensors"
    for entry in load_catalog().weights.values():
        host.drive[entry.url.rpartition("=")[2]] = entry.file
    # The user has registered for ADE20K, has an archive already, and weights of his own.
    archives = checkout.path / "datasets/official/archives"
    archives.mkdir(parents=True)
    registered = checkout.path / "ADE20K_2021_17_01.zip"
    (host.folder / registered.name).rename(registered)
    had = archives / "VOCtrainval_11-May-2012.tar"
    (host.folder / had.name).rename(had)
    own = archives / "maftp_l.pth"
    own.write_bytes(b"weights of my own")
    brought = {path: sha256(path) for path in (registered, had, own)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", host.url("").rstrip("/"))
        patch.setenv("HF_HOME", str(folder / "hub"))
        patch.delenv("HF_HUB_OFFLINE", raising=False)
        thread = threading.Thread(target=host.serve_forever, daemon=True)
        thread.start()
        yield Rehearsal(checkout, host, overlay, brought, changes)
        host.shutdown()
        host.server_close()


def show(name: str, table: pd.DataFrame, memory: int, seconds: float) -> None:
    columns = [c for c in table.columns if table[c].notna().any()]
    print(f"\n{name}: {seconds / 60:.1f} min, {memory} MB\n{table[columns].to_string(index=False)}")


def assert_is_rehearsed(name: str, table: pd.DataFrame, memory: int, started: float) -> None:
    show(name, table, memory, time.monotonic() - started)
    assert set(table.experiment) == {name}
    assert memory < MOST_MEMORY_MB


def commands_of_the_page() -> list[list[str]]:
    """Return what docs/reproduce.md has people type, from the first `maftp` on."""
    page = (ROOT / "docs/reproduce.md").read_text()
    section = page.split("## Five commands")[1].split("\n## ")[0]
    (block,) = re.findall(r"^```sh\n(.*?)^```", section, re.S | re.M)
    lines = [shlex.split(line, comments=True) for line in block.splitlines()]
    return [words for words in lines if words[0] in ("maftp", "snakemake")]


def test_interruptions_lose_nothing_that_was_brought(official):
    for seconds in (4, 7, 9, 11, 13):
        official.interrupt(official.command("datasets", BASE), seconds)
        official.assert_nothing_brought_is_lost(f"SIGTERM after {seconds} s")


def test_released_weights_of_the_base_model(official):
    """The page's own commands; only the overlay of the rehearsal comes behind the official file."""
    started = time.monotonic()
    own, memory = official.files(BASE), 0
    commands = commands_of_the_page()
    assert [words[0] for words in commands] == ["maftp", "maftp", "snakemake"]
    for words in commands:
        assert words[-1] == own[0]
        memory = max(memory, official.watch([*words, *own[1:]]))
    table = pd.read_csv(official.checkout.path / "results/table.csv")
    assert_is_rehearsed(BASE, table, memory, started)
    benchmarks = load_params(
        ROOT / "params.yaml", ROOT / f"workflow/experiments/{BASE}.yaml"
    ).benchmarks
    scored = official.changes.get("benchmarks", benchmarks)
    assert table[list(scored)].notna().all(axis=None)
    assert "released" in (official.checkout.path / "results/table.md").read_text()
    asked = [path.split("?")[0] for _, path in official.host.requests]
    assert "/uc" in asked and "/download" in asked
    official.assert_nothing_brought_is_lost("the table of the released weights")


def test_changes_lose_nothing_that_was_brought(official):
    checkout, text = official.checkout, official.overlay.read_text()
    official.overlay.write_text("# newer\n" + text)
    done = checkout.run(*official.command("results/table.csv", BASE), "--dry-run")
    assert "Nothing to be done" in done.stdout + done.stderr
    (checkout.path / "datasets/official").rename(checkout.path / "datasets/moved")
    moved = {"data": {"root": "datasets/moved", "catalog": str(official.overlay)}}
    brought = {
        Path(str(path).replace("/official/", "/moved/")): digest
        for path, digest in official.brought.items()
    }
    after = replace(official, brought=brought)
    checkout.run(*official.command("datasets", BASE, **moved))
    after.assert_nothing_brought_is_lost("a moved root")
    moved["data"]["catalog"] = None  # the official addresses, which cannot be reached from here
    official.interrupt(official.command("datasets", BASE, **moved), 40)
    after.assert_nothing_brought_is_lost("an overlay that was removed")
    (checkout.path / "datasets/moved").rename(checkout.path / "datasets/official")


@rehearsal
def test_released_weights_of_the_large_panoptic_model(official):
    started = time.monotonic()
    params = load_params(ROOT / "params.yaml", ROOT / f"workflow/experiments/{LARGE}.yaml")
    released = official.host.folder / "maftp_l_pano.pth"
    write_weights(params.for_variant("maftp"), classes=133, released=released)
    table, memory = official.run(LARGE)
    assert_is_rehearsed(LARGE, table, memory, started)
    assert table["PQ"].notna().all()


@rehearsal
@pytest.mark.parametrize("experiment", TRAINED)
def test_two_steps_of_training(official, experiment):
    started = time.monotonic()
    table, memory = official.run(experiment, **TWO_STEPS)
    assert_is_rehearsed(experiment, table, memory, started)
    assert (table["steps"].astype(str).str.startswith("2")).all()
    asked = [path for _, path in official.host.requests]
    assert any(path.endswith("/open_clip_model.safetensors") for path in asked)
