"""docs/your_data.md as a newcomer goes it: every file written and every command typed, in order."""

from __future__ import annotations

import csv
import json
import re
import shlex

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from tests.workflow.conftest import BIN, ROOT, SMOKE, Checkout

pytestmark = pytest.mark.slow

PAGE = (ROOT / "docs/your_data.md").read_text()
COMMANDS = [
    shlex.split(line)
    for block in re.findall(r"^```sh\n(.*?)^```", PAGE, re.S | re.M)
    for line in block.splitlines()
]
NAMES = re.search(r"^```\n(0:.*?)^```", PAGE, re.S | re.M)[1]


def draw(path, count: int, seed: int) -> None:
    """Draw streets: sky above a road, with a car; masks say which is which."""
    rng = np.random.default_rng(seed)
    for folder in ("photos", "masks"):
        (path.parent / folder / path.name).mkdir(parents=True)
    for number in range(count):
        mask = np.zeros((96, 128), np.uint8)
        mask[int(rng.integers(50, 70)) :] = 2
        left = int(rng.integers(0, 80))
        mask[55:80, left : left + 45] = 1
        colours = np.array([[120, 170, 240], [200, 30, 30], [90, 90, 90]])
        picture = (colours[mask] + rng.integers(-15, 16, (96, 128, 3))).clip(0, 255)
        stem = f"{number:04d}"
        photo = Image.fromarray(picture.astype(np.uint8))
        photo.save(path.parent / "photos" / path.name / f"{stem}.jpg")
        Image.fromarray(mask).save(path.parent / "masks" / path.name / f"{stem}.png")


@pytest.fixture(scope="module")
def newcomer(finished, tmp_path_factory) -> Checkout:
    """A checkout whose first table is made, two folders, and the files that the page shows."""
    checkout = finished.copy(tmp_path_factory.mktemp("newcomer") / "copy")
    (checkout.path / "results/miniature").symlink_to("smoke")
    draw(checkout.path / "train", 4, seed=0)
    draw(checkout.path / "val", 2, seed=1)
    (checkout.path / "names.txt").write_text(NAMES)
    for name, text in re.findall(r"`(street\w*\.yaml)`:\n\n```yaml\n(.*?)^```", PAGE, re.S | re.M):
        small = text.replace("iterations: 100\n", "iterations: 3\n  batch_size: 2\n")
        (checkout.path / name).write_text(small)
    (checkout.path / "street.yaml").open("a").write("model: {num_queries: 8}\n")  # of smoke.yaml
    return checkout


def test_from_two_folders_to_a_row_in_the_table(newcomer):
    assert SMOKE.exists() and {command[0] for command in COMMANDS} == {"maftp", "snakemake"}
    said = []
    for command in COMMANDS:
        done = newcomer.run(BIN / command[0], *command[1:])
        said.append(done.stdout + done.stderr)
    added, planned = said[1], said[2]
    assert "street, val: 2 images, 3 classes; 0.0 % of the pixels have none." in added
    assert "snakemake --cores all --configfile street.yaml" in added
    for rule in ("convert", "train", "evaluate"):
        assert re.search(rf"^{rule}\s+\d", planned, re.M), planned
    assert re.search(r"^train\s+1$", planned, re.M)
    assert "world" not in planned and "download" not in planned
    (shown,) = (text for text, command in zip(said, COMMANDS, strict=True) if "show" in command)
    assert len(re.findall(r"^ +variant +street *$", shown, re.M)) == 3, shown
    assert "Difference from before" in shown
    with open(newcomer.path / "results/street/table.csv") as file:
        rows = {row["variant"]: row for row in csv.DictReader(file)}
    assert rows.keys() == {"before", "finetuned"}
    for part in ("train", "val"):
        assert (newcomer.path / f"results/previews/street_{part}.png").exists()
    run = newcomer.path / "results/street/finetuned/seed0"
    manifest = json.loads((run / "manifest.json").read_text())
    assert "results/miniature/maftp/seed0/weights.safetensors" in manifest["inputs"]
    assert manifest["params"]["data"]["train"] == "street"
    scores = json.loads((run / "evaluation/street.json").read_text())
    assert [entry["seen"] for entry in scores["per_class"]] == [True] * 3
    assert "/own-" in scores["provenance"]["own"]  # a copy of the entries, named by its content
    first = load_file(newcomer.path / "results/smoke/maftp/seed0/weights.safetensors")
    last = load_file(run / "weights.safetensors")
    moved = [
        float((last[name] - tensor).abs().max())
        for name, tensor in first.items()
        if name != "criterion.empty_weight"  # of another number of classes
    ]
    assert 0 < max(moved) < 0.01  # three small steps away from where it started
    done = newcomer.run(BIN / "snakemake", "results/report.html", *COMMANDS[2][1:])
    assert re.search(r"^gallery\s+1$", done.stdout + done.stderr, re.M)  # against `before`
    assert len(list((newcomer.path / "predictions").rglob("*.png"))) >= 2


def test_the_released_weights_are_fetched_and_trained_on(newcomer):
    """The last command of the page, planned only: the weights are far away."""
    done = newcomer.run(BIN / "snakemake", *COMMANDS[-1][1:])
    planned = done.stdout + done.stderr
    assert "Check and keep the released weights maftp_b" in planned
    assert re.search(r"^train\s+1$", planned, re.M) and re.search(r"^evaluate\s+2$", planned, re.M)


def test_a_replaced_part_is_converted_and_scored_again(newcomer):
    (newcomer.path / "photos/val/0001.jpg").unlink()
    (newcomer.path / "masks/val/0001.png").unlink()
    newcomer.run(BIN / "maftp", *COMMANDS[1][1:], "--replace")
    done = newcomer.run(BIN / "snakemake", *COMMANDS[2][1:])
    counts = dict(re.findall(r"^(\w+)\s+(\d+)$", done.stdout + done.stderr, re.M))
    assert counts["convert"] == "1" and counts["evaluate"] == "2"


def test_own_data_beside_the_miniature_world(newcomer):
    """The world draws its catalog itself; yours lies over it, and only yours is converted."""
    (newcomer.path / "both.yaml").write_text(
        "data: {own: datasets/miniature/own.yaml}\nbenchmarks: [A-150, street]\nablations: null"
    )
    files = ["params.yaml", "smoke.yaml", "both.yaml"]
    newcomer.run(BIN / "maftp", *COMMANDS[1][1 : COMMANDS[1].index("--params")], "--params", *files)
    done = newcomer.snakemake("-n", "results/smoke/table.csv", params=files[1:])
    counts = dict(re.findall(r"^(\w+)\s+(\d+)$", done.stdout + done.stderr, re.M))
    assert counts["convert"] == "1" and counts["evaluate"] == "3"
    assert not {"world", "download", "train"} & counts.keys()
