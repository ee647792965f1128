"""One run computes what was planned, whatever is edited meanwhile and however paths are called."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from tests.workflow.conftest import BIN, Checkout
from tests.workflow.test_pipeline import SMOKE, planned

pytestmark = pytest.mark.slow


def started(checkout: Checkout, *arguments: str) -> subprocess.Popen:
    command = [BIN / "snakemake", "--cores", "1", *arguments]
    return subprocess.Popen(
        list(map(str, command)), cwd=checkout.path, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def wait_for(path: Path, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.05)


@pytest.mark.parametrize("text", ["input: {test: {short_side: 64}}", "input: {test: ["])
def test_parameters_edited_during_a_run_change_nothing(finished, tmp_path, text):
    checkout = finished.copy(tmp_path / "copy")
    wanted, logs = {}, []
    for variant in ("maftp", "fcclip"):
        path = checkout.path / f"results/smoke/{variant}/seed0/evaluation/PAS-20.json"
        wanted[path] = json.loads(path.read_text())["scores"]
        path.unlink()
        logs.append(path.with_name("all.log"))
        logs[-1].unlink()
    (checkout.path / "mine.yaml").write_text("{}")
    targets = [str(path.relative_to(checkout.path)) for path in wanted]
    running = started(checkout, *targets, "--configfile", SMOKE, "mine.yaml")
    while not any(log.exists() for log in logs):
        time.sleep(0.05)
        assert running.poll() is None, running.communicate()[0]
    (checkout.path / "mine.yaml").write_text(text)
    output = running.communicate()[0]
    assert running.returncode == 0, output
    (checkout.path / "mine.yaml").write_text("{}")
    for path, scores in wanted.items():
        result = json.loads(path.read_text())
        assert result["scores"] == scores
        assert result["provenance"]["params"]["input"]["test"]["short_side"] == 160
    assert "evaluate" not in planned(checkout, SMOKE, "mine.yaml")


def test_an_edited_copy_of_the_parameters_is_refused(finished, tmp_path):
    (frozen,) = (finished.path / "results/.params").glob("params-*.yaml")
    edited = tmp_path / ".params" / frozen.name
    edited.parent.mkdir()
    edited.write_text(frozen.read_text().replace("short_side: 160", "short_side: 64"))
    done = finished.maftp("params", "--params", str(edited), ok=False)
    assert done.returncode != 0 and "edited since the run began" in done.stderr
    assert "Traceback" not in done.stderr


NAMES = ["d$(touch PWNED)", "my data", "it's", "a;touch PWNED", "`touch PWNED`", 'q"uote', "a&b|c"]


def test_paths_with_signs_of_the_shell_are_paths(checkout):
    """Data, weights and parameter file: from archives to embeddings."""
    root = "/".join(NAMES)
    clip = "$(touch PWNED) it's my clip.safetensors"
    shutil.copy(checkout.path / "maftp/miniworld/clip_miniature.safetensors", checkout.path / clip)
    overlay = checkout.path / "a:b $(touch PWNED)'.yaml"
    values = {
        "benchmarks": ["PAS-20"],
        "data": {"root": root, "catalog": f"{root}/served/sources.yaml"},
        "clip": {"pretrained": clip},
        "ablations": None,
    }
    overlay.write_text(yaml.safe_dump(values))
    checkout.snakemake("embeddings", "datasets", params=[SMOKE, overlay.name])
    assert not list(checkout.path.rglob("PWNED*")) and not Path("PWNED").exists()
    assert (checkout.path / root / "manifests/pascal_voc_20.json").exists()
    done = checkout.snakemake("-n", "datasets", params=[SMOKE, overlay.name])
    assert "Nothing to be done" in done.stdout + done.stderr


def test_a_variant_gets_the_clip_that_it_names(finished, tmp_path):
    checkout = finished.copy(tmp_path / "copy")
    other = checkout.path / "other.safetensors"
    shutil.copy(checkout.path / "maftp/miniworld/clip_miniature.safetensors", other)
    change = {
        "variants": {"maftp": {}, "mine": {"clip": {"pretrained": other.name}}},
        "train": {"iterations": 1},
        "ablations": None,
    }
    (checkout.path / "change.yaml").write_text(yaml.safe_dump(change))
    manifest = "results/smoke/mine/seed0/manifest.json"
    checkout.snakemake(manifest, params=[SMOKE, "change.yaml"])
    made = json.loads(checkout.read(manifest))
    assert "weights/clip/maftp_miniature-other.safetensors" in made["inputs"]
    assert "weights/clip/maftp_miniature-clip_miniature.safetensors" not in made["inputs"]
    assert any("maftp_miniature-other-" in path for path in made["inputs"])
    assert made["params"]["clip"]["pretrained"] == other.name


def test_two_clips_of_one_name_are_refused(checkout):
    change = {"variants": {"a": {}, "b": {"clip": {"pretrained": "x/clip_miniature.safetensors"}}}}
    (checkout.path / "x").mkdir()
    (checkout.path / "x/clip_miniature.safetensors").touch()
    (checkout.path / "change.yaml").write_text(yaml.safe_dump(change | {"ablations": None}))
    done = checkout.snakemake("-n", params=[SMOKE, "change.yaml"], ok=False)
    assert done.returncode != 0 and "have the same name" in done.stdout + done.stderr


def test_a_killed_snakemake_goes_on_with_the_same_command(checkout):
    target = "datasets/miniature/manifests/pascal_voc_20.json"
    log = checkout.path / "datasets/miniature/logs/world.log"
    running = started(checkout, target, "--configfile", SMOKE)
    wait_for(log)
    running.kill()
    running.wait()
    running.stdout.close()
    assert list((checkout.path / ".snakemake/locks").iterdir())
    done = checkout.snakemake(target, params=[SMOKE])
    assert "Released the lock" in done.stdout + done.stderr
    assert (checkout.path / target).exists()


def test_the_lock_of_a_living_snakemake_stays(checkout):
    target = "datasets/miniature/manifests/pascal_voc_20.json"
    running = started(checkout, target, "--configfile", SMOKE)
    wait_for(checkout.path / "datasets/miniature/logs/world.log")
    os.kill(running.pid, signal.SIGSTOP)
    try:
        done = checkout.snakemake(target, params=[SMOKE], ok=False)
        assert done.returncode != 0 and "--unlock" in done.stdout + done.stderr
    finally:
        os.kill(running.pid, signal.SIGCONT)
        running.communicate()
    assert running.returncode == 0
