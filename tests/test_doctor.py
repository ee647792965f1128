"""`maftp doctor` names what is wrong with a machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from maftp.api import EXPERIMENTS
from maftp.cli import main
from maftp.config import load_params
from maftp.data.catalog import load_catalog
from maftp.data.fingerprint import _digest, drawn_picture, expected_digests, picture_digests
from maftp.data.mapper import resize_image
from maftp.doctor import describe, examine, picture_findings
from maftp.ops.native import CACHE_VARIABLE

ROOT = Path(__file__).resolve().parent.parent
BASE = ROOT / "workflow/experiments/maftp_base_released.yaml"


def test_what_is_here(tmp_path):
    found = describe(tmp_path)
    assert "torch 2." in found["versions"] and "mIoU (a)" in found["metrics"]
    assert found["pictures"] == "8 of 8 are decoded and resized as by the pins"
    assert "torch: ready" in found["operators"]
    assert "GB free" in found["disk"]


def test_an_old_pillow_is_named():
    here = picture_digests()
    assert picture_findings(here, expected_digests()) == []
    # as Pillow did it up to version 12: the horizontal pass first, whatever the shape
    upright = drawn_picture(278, 100)
    old = _digest(resize_image(resize_image(upright, 278, 80), 222, 80))
    (finding,) = picture_findings(here | {"resize image, upright": old}, expected_digests())
    assert not finding.stops
    assert "1 of 8" in finding.text and "resize image, upright" in finding.text
    assert "with pillow " in finding.text and "make env" in finding.text


def test_no_compiler(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "nothing built"))
    monkeypatch.delenv("CXX", raising=False)
    params = load_params(ROOT / "params.yaml")
    texts = [f.text for f in examine(params, load_catalog(), tmp_path)]
    assert [text for text in texts if text.startswith("compiler: there is no c++")]
    assert "install g++" in " ".join(texts)


def test_what_only_the_user_can_obtain(tmp_path):
    params = load_params(ROOT / "params.yaml", BASE)
    found = examine(params, load_catalog(), tmp_path, files=[BASE])
    (finding,) = [f for f in found if f.text.startswith("data: ")]
    assert "ask at https://" in finding.text and "maftp download ade20k_full" in finding.text
    (tmp_path / "archives").mkdir()
    (tmp_path / "archives" / load_catalog().source("ade20k_full").file).touch()
    assert not [f for f in examine(params, load_catalog(), tmp_path) if f.text.startswith("data")]


def test_every_shipped_experiment_is_gone_through(capsys, monkeypatch, tmp_path):
    names = ["fcclip_large", "maftp_base_released"]
    for name in names:  # two of them, as each takes half a second
        shutil.copy(EXPERIMENTS / f"{name}.yaml", tmp_path)
    monkeypatch.setattr("maftp.api.EXPERIMENTS", tmp_path)
    assert main(["doctor", "--every", "--params", str(ROOT / "params.yaml")]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line for line in said if line.endswith(" is missing")] == [
        f"{name}: this is missing" for name in names
    ]


@pytest.mark.slow
@pytest.mark.skipif(
    os.getuid() != 0 or shutil.which("unshare") is None or sys.platform != "linux",
    reason="needs root on Linux, to mount small file systems of its own",
)
def test_a_machine_of_faults(tmp_path):
    """A full disk, a small /dev/shm and no compiler are each named, with what to do."""
    (tmp_path / "small").mkdir()
    overlay = tmp_path / "mine.yaml"
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["data"]["root"] = str(tmp_path / "small")
    overlay.write_text(yaml.safe_dump(values, sort_keys=False))
    done = subprocess.run(
        ["unshare", "--mount", sys.executable, Path(__file__).with_name("small_machine.py"),
         tmp_path / "small", overlay],
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    if "NO MOUNT" in done.stdout or "unshare" in done.stderr:
        pytest.skip("this machine does not allow a mount of one's own")
    assert "CODE 1" in done.stdout, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith("! disk: ") and "0.0 GB free" in line]
    assert [line for line in lines if line.startswith("- /dev/shm: 67 MB") and "--shm-size" in line]
    assert [line for line in lines if line.startswith("- compiler: there is no c++")]
