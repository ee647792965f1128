"""What a machine lacks is said before anything starts, with what to do."""

from __future__ import annotations

import sys
from pathlib import Path

import yaml

from maftp.cli import main
from maftp.config import load_params
from maftp.data.catalog import load_catalog
from maftp.machine import check_machine, find_gpus

ROOT = Path(__file__).resolve().parent.parent
BASE = ROOT / "workflow/experiments/maftp_base.yaml"


def driver(folder: Path, monkeypatch, lines: str, *, fails: bool = False) -> None:
    """Put a program of the driver's name first in $PATH."""
    folder.mkdir(exist_ok=True)
    program = folder / "nvidia-smi"
    program.write_text(
        f"#!{sys.executable}\nprint({lines!r}, end='')\nraise SystemExit({fails:d})\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def experiment(tmp_path, **blocks):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(blocks))
    return load_params(ROOT / "params.yaml", BASE, path)


def texts(params, tmp_path, *, sources=(), here=True):
    found = check_machine(
        params, load_catalog(), tmp_path / "data", sources=sources, jobs_run_here=here
    )
    return {finding.text.partition(":")[0]: finding for finding in found}


def test_gpus_are_counted(tmp_path, monkeypatch):
    driver(tmp_path / "bin", monkeypatch, "580.65.06\n580.65.06\n")
    assert (find_gpus().count, find_gpus().driver) == (2, 580)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert find_gpus().count == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert find_gpus().count == 0
    driver(tmp_path / "bin", monkeypatch, "NVIDIA-SMI has failed\n", fails=True)
    assert find_gpus().count == 0


def test_half_precision_on_the_cpu_stops_before_the_downloads(tmp_path):
    on_cpu = {"gpus_per_worker": 0, "workers": 1}
    (finding,) = [
        f for f in texts(experiment(tmp_path, execution=on_cpu), tmp_path).values() if f.stops
    ]
    assert "train.amp to false" in finding.text
    params = experiment(tmp_path, execution=on_cpu, train={"amp": False})
    assert not [f for f in texts(params, tmp_path).values() if f.stops]
    scored = {"variants": {"maftp": {"weights": "some.pth"}}, "execution": on_cpu}
    assert not [f for f in texts(experiment(tmp_path, **scored), tmp_path).values() if f.stops]


def test_fewer_gpus_than_workers_stop_with_a_number_that_works(tmp_path, monkeypatch):
    driver(tmp_path / "bin", monkeypatch, "580.1\n" * 6)
    (finding,) = [f for f in texts(experiment(tmp_path), tmp_path).values() if f.stops]
    assert "wants 8, this machine has 6" in finding.text
    assert "execution.workers to 4" in finding.text  # 8 images are a multiple of 4, not of 5 or 6
    four = experiment(tmp_path, execution={"workers": 4})
    assert "GPUs" not in texts(four, tmp_path)


def test_no_gpu_is_told_once_and_evaluation_goes_on(tmp_path, monkeypatch):
    driver(tmp_path / "bin", monkeypatch, "", fails=True)
    released = load_params(ROOT / "params.yaml", BASE.with_stem("maftp_base_released"))
    finding = texts(released, tmp_path)["GPUs"]
    assert not finding.stops and "CPU" in finding.text
    assert "GPUs" not in texts(load_params(ROOT / "params.yaml"), tmp_path)


def test_an_old_driver_stops(tmp_path, monkeypatch):
    driver(tmp_path / "bin", monkeypatch, "470.82\n" * 8)
    finding = texts(experiment(tmp_path), tmp_path)["driver"]
    assert finding.stops and "470 is too old" in finding.text


def test_a_small_disk_stops_and_what_is_there_does_not_count(tmp_path):
    catalog = load_catalog()
    sources = [name for name, entry in catalog.sources.items() if entry.megabytes]
    huge = catalog.model_copy(
        update={
            "sources": {
                name: entry.model_copy(update={"megabytes": 10**9})
                for name, entry in catalog.sources.items()
            }
        }
    )
    params = load_params(ROOT / "params.yaml")
    (finding,) = check_machine(
        params, huge, tmp_path / "data", sources=sources, jobs_run_here=False
    )
    assert finding.stops and "GB free" in finding.text and "data.root" in finding.text
    archives = tmp_path / "data" / "archives"
    archives.mkdir(parents=True)
    for name in sources:
        (archives / huge.obtainable(name).file).touch()
    assert not check_machine(params, huge, tmp_path / "data", sources=sources, jobs_run_here=False)


def test_the_command(capsys, tmp_path, monkeypatch):
    assert main(["doctor", "--params", str(ROOT / "params.yaml")]) == 0
    assert "nothing is missing" in capsys.readouterr().out
    driver(tmp_path / "bin", monkeypatch, "")
    assert main(["doctor", "--params", str(ROOT / "params.yaml"), str(BASE)]) == 1
    assert "GPUs: training wants 8" in capsys.readouterr().out
