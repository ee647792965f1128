"""docs/zoo.md is what the files say today, and its commands work."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from maftp.api import EXPERIMENTS
from maftp.cli import main

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/zoo.md").read_text()
LOOKING = (ROOT / "docs/looking.md").read_text()


def section(title: str) -> str:
    return re.split(r"^## ", PAGE.partition(f"## {title}\n")[2], flags=re.M)[0]


def cells(text: str) -> list[list[str]]:
    """Return the rows of a table."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    lines = [line.replace("\N{NO-BREAK SPACE}", " ").strip("|") for line in lines]
    return [[cell.strip() for cell in line.split(" | ")] for line in lines[2:]]


def test_the_page_is_what_the_command_writes(capsys):
    assert main(["zoo"]) == 0
    assert capsys.readouterr().out == PAGE, "run `maftp zoo > docs/zoo.md`"


def test_every_experiment_has_rows():
    for file in EXPERIMENTS.glob("*.yaml"):
        assert f"| [`{file.stem}`](../workflow/experiments/{file.name}) `" in PAGE


def test_published_and_measured_scores_never_share_a_table():
    published = pd.read_csv(ROOT / "maftp/report/published.csv")
    found = cells(section("Published scores"))
    assert len(found) == len(published)
    assert ["MAFTP-Base", "current README of the authors", "a", "13.8"] in [r[:4] for r in found]
    assert "±" not in section("Published scores") and "13.8" not in section("Measured scores")


def test_measured_scores_are_those_of_the_readme():
    rows = cells(section("Measured scores"))
    readme = (ROOT / "README.md").read_text()
    lines = [set(re.findall(r"\d+\.\d ± \d+\.\d", line)) for line in readme.splitlines()]
    assert len(rows) == 3
    for row in rows:
        assert any(set(row[4:10]) <= line for line in lines), row
        assert re.search(r"commit (\w+)", row[2])[0] in readme


def test_what_was_not_measured_is_said_to_be_so():
    rows = [row for row in cells(section("MAFT+")) if row[0].startswith("[`maftp_")]
    assert len(rows) == 6 and {row[3] for row in rows} == {"not measured"}


def commands(text: str) -> list[list[str]]:
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.S | re.M)
    return [shlex.split(line, comments=True) for line in "\n".join(blocks).splitlines() if line]


def test_commands_that_need_no_workflow(weights, tmp_path, monkeypatch, capsys, pixels):
    """Those of the pages about shared models, the tiny weights standing in for the miniature's."""
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    run = Path("results/miniature/maftp/seed0")
    run.parent.mkdir(parents=True)
    run.symlink_to(weights.parent)
    Image.fromarray(pixels).save("photo.jpg")
    share = LOOKING.partition("## Models to share")[2].partition("\n## ")[0]
    for command in commands(share):
        assert main(command[1:]) == 0, capsys.readouterr().err
    assert Path("predictions/photo.labels.png").is_file()
    names = {}
    exec(re.search(r"^```python\n(.*?)^```", share, re.S | re.M)[1], names)
    assert names["model"].training_names == ("sky", "car, taxi")
    written = {path.name for path in Path("my_model").iterdir()}
    assert {"model.safetensors", "config.json", "README.md", "LICENSE"} <= written


@pytest.mark.slow
@pytest.mark.parametrize("command", commands(PAGE), ids=" ".join)
def test_commands_of_the_page(command, tmp_path, monkeypatch, capsys):
    """The run itself is planned only, as it takes a GPU for hours; `make rehearsal` does more."""
    from tests.workflow.conftest import BIN, make_checkout

    if command[0] == "maftp":
        monkeypatch.chdir(ROOT)
        # the doctor ends with 1 where this machine lacks something, and says what
        assert main(command[1:]) in (0, 1)
        assert "disk" in capsys.readouterr().out
        return
    options = command[1:] if "-n" in command else ["-n", *command[1:]]
    checkout = make_checkout(tmp_path / "checkout")
    done = subprocess.run(
        [BIN / "snakemake", *options], cwd=checkout.path, capture_output=True, text=True
    )
    assert done.returncode == 0 and "released_weights" in done.stdout, done.stderr
