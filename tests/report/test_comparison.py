"""Two runs side by side, named in every way."""

import json

import pytest

from maftp.errors import DataError
from maftp.report.comparison import compare, find_run


def write(path, *, seed, loss, torch="2", **more):
    path.mkdir(parents=True)
    manifest = {
        "params": {"train": {"power": 0.9, "seed": seed}, **more}, "packages": {"torch": torch},
        "commit": "c0ffee", "inputs": {"clip": "12ab"}, "training_seconds": 60.0,
    }  # fmt: skip
    (path / "manifest.json").write_text(json.dumps(manifest))
    (path / "history.csv").write_text(f"step,loss\n20,9\n40,{loss}\n")


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    write(tmp_path / "results/mine/maftp/seed0", seed=0, loss=1.5)
    write(tmp_path / "results/mine/maftp-seedless/seed0", seed=0, loss=2)
    write(tmp_path / "results/other/maftp/seed1", seed=1, loss=2.0, torch="3", extra=True)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("maftp", "mine/maftp/0"),
        ("maftp-seed0", "mine/maftp/0"),
        ("mine/maftp", "mine/maftp/0"),
        ("maftp-seedless", "mine/maftp-seedless/0"),
        ("other/maftp-seed1", "other/maftp/1"),
        ("results/other/maftp/seed1/", "other/maftp/1"),
    ],
)
def test_a_run_is_found_by_its_name_or_folder(name, row):
    assert find_run(name, "mine").row == row


@pytest.mark.parametrize("name", ["nothing", "other/maftp", "results/other", "maftp-seed1", ""])
def test_what_is_no_run_is_named(name):
    with pytest.raises(DataError, match=f"{name}: no such run below .*results"):
        find_run(name, "mine")


def test_what_differs_is_shown_and_every_number():
    text = compare(find_run("maftp", "mine"), find_run("other/maftp-seed1", "mine"))
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    assert [row for row in cells if row and not row[0].startswith("-")] == [
        ["parameters that differ", "mine/maftp/0", "other/maftp/1"],
        ["extra", "", "True"],
        ["train.seed", "0", "1"],
        ["origin that differs", "mine/maftp/0", "other/maftp/1"],
        ["packages.torch", "2", "3"],
        ["numbers", "mine/maftp/0", "other/maftp/1", "second - first"],
        ["loss", "1.5", "2", "0.5"],
        ["training_seconds", "60", "60", "0"],
    ]
