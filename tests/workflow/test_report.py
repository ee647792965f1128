"""Ablation grid and report of the smallest experiment, made by Snakemake, opened by a browser."""

from __future__ import annotations

import csv
import re
import shutil

import pandas as pd
import pytest

from maftp.config import load_params
from maftp.grid import different_keys, get_key
from maftp.results import find_runs
from tests.workflow.conftest import ROOT, Checkout

pytestmark = pytest.mark.slow

SMOKE = "smoke.yaml"
EXPERIMENTS = sorted((ROOT / "workflow/experiments").glob("*.yaml"))
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FIGURES = {"scores", "protocols", "cost", "classes", "confusion", "drift", "ablations"}
FIGURES |= {"gap", "recall", "naming", "calibration", "words"}


@pytest.fixture(scope="module")
def reported(finished, tmp_path_factory) -> Checkout:
    """A checkout with the grid and the report made; tests must not change it."""
    path = tmp_path_factory.mktemp("reported") / "checkout"
    finished.copy(path)
    checkout = Checkout(path)
    targets = ("results/ablations.csv", "results/report.html")
    checkout.snakemake(*targets, params=[SMOKE])
    return checkout


@pytest.fixture(scope="module")
def grid(reported):
    return load_params(reported.path / "params.yaml", reported.path / SMOKE).grid


def run_params(checkout: Checkout, run: str) -> dict:
    """Parameters as the run itself recorded them."""
    (folder,) = find_runs(checkout.path / "results/smoke", [run], [0])
    manifest = folder.manifest
    return {key: value for key, value in manifest["params"].items() if key != "weights"}


def test_each_run_differs_from_its_neighbour_in_the_named_parameter_alone(reported, grid):
    compared = 0
    for row in grid.rows:
        trained = [grid.runs[run]["weights"] is None for run in (row.run, row.start) if run]
        if row.start in (None, row.run) or not all(trained):
            continue
        start, run = run_params(reported, row.start), run_params(reported, row.run)
        assert different_keys(start, run) == [row.key]
        assert get_key(run, row.key) == row.value
        compared += 1
    assert compared == 5


def test_the_table_of_ablations_has_a_line_per_cell(reported, grid):
    table = pd.read_csv(reported.path / "results/ablations.csv")
    assert table.title.tolist() == [row.title for row in grid.rows]
    assert table["mIoU"].between(0, 100).all()
    others = table[table.run != grid.rows[0].run]
    for name in ("mIoU", "PQ"):
        assert (others[f"{name} low"] <= others[f"{name} high"]).all()
    head = table[table.run == "ablation-ensemble-head"].iloc[0]
    assert head["trained as"] == "ablation-frozen"
    cells = reported.path / "results/ablations/smoke"
    assert (cells / "ablation-frozen/seed0/train.log").exists()
    assert not (cells / "ablation-ensemble-head/seed0/train.log").exists()
    cards = {card.parents[1].name for card in cells.glob("*/seed0/README.md")}
    assert cards == {log.parents[1].name for log in cells.glob("*/seed0/train.log")}
    text = reported.read("results/ablations.md")
    assert "train.rc_weight" in text and "Not comparable" in text


def test_every_figure_has_its_numbers(reported):
    folder = reported.path / "results/smoke/figures"
    assert {path.stem for path in folder.glob("*.png")} == FIGURES
    for path in folder.glob("*.png"):
        with open(path.with_suffix(".csv"), newline="") as file:
            assert len(list(csv.reader(file))) > 1, path.stem
    gallery = list((reported.path / "results/smoke/gallery").glob("*/*.png"))
    assert {path.parent.name for path in gallery} >= {"best", "worst"}


def test_a_second_report_has_nothing_to_do(reported):
    targets = ("results/ablations.csv", "results/report.html")
    done = reported.snakemake("-n", *targets, params=[SMOKE])
    assert "Nothing to be done" in done.stdout + done.stderr


@pytest.mark.parametrize("together", ["true", "false"])
def test_a_grid_may_want_benchmarks_that_the_table_does_not_show(checkout, together):
    """Without overrides the full cell is a variant of the table."""
    (checkout.path / "mine.yaml").write_text(
        f"{{benchmarks: [PAS-20], execution: {{evaluate_together: {together}}}, "
        "ablations: {overrides: {}}}"
    )
    wanted = "results/smoke/maftp/seed0/evaluation/ADE-panoptic.json"
    checkout.snakemake("-n", "results/ablations.csv", wanted, params=[SMOKE, "mine.yaml"])


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_official_experiment_has_a_report(checkout, experiment):
    if experiment.stem == "maskclippp_eva_large":
        (checkout.path / "weights/clip").mkdir(parents=True)
        (checkout.path / "weights/clip/EVA02_CLIP_L_336_psz14_s6B.pt").touch()  # by hand
    done = checkout.snakemake("-n", "results/report.html", params=[experiment])
    plan = set(re.findall(r"^(\w+)\s+\d+$", done.stdout + done.stderr, re.M))
    assert {"figure_scores", "provenance", "report_page"} <= plan
    assert ("train" in plan) == ("figure_cost" in plan) != experiment.stem.endswith("_released")


def test_the_report_of_released_weights_on_a_panoptic_benchmark_alone(finished, tmp_path):
    """Nothing is trained, and nothing has mIoU: what needs either is left out."""
    checkout = finished.copy(tmp_path / "copy")
    weights = "results/smoke/maftp/seed0/weights.safetensors"
    (checkout.path / "released.yaml").write_text(
        "experiment: released\nbenchmarks: [ADE-panoptic]\nablations: null\n"
        f"variants: {{released: {{weights: {weights}}}}}\n"
    )
    page = "results/report.html"
    done = checkout.snakemake(page, params=["smoke.yaml", "released.yaml"])
    assert not re.search(r"^train\s", done.stdout + done.stderr, re.M)
    plots = {path.stem for path in (checkout.path / "results/released/figures").glob("*.png")}
    assert plots == {"scores", "gap", "recall", "naming", "calibration", "words"}
    assert all(f"{plot}.png" in checkout.read(page) for plot in plots)


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_the_report_opens_without_network_and_shows_every_figure(reported, tmp_path):
    from playwright.sync_api import sync_playwright

    asked, errors = [], []
    with sync_playwright() as playwright:
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        context = browser.new_context(offline=True, viewport={"width": 1400, "height": 1000})
        page = context.new_page()
        page.set_default_timeout(600_000)
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto((reported.path / "results/report.html").as_uri())
        page.get_by_text("Method", exact=False).first.wait_for()
        results = page.evaluate("results")
        page.screenshot(path=tmp_path / "report.png")
        browser.close()
    abroad = [url for url in asked if not url.startswith(("file:", "data:", "blob:"))]
    assert not abroad and not errors
    names = {record["name"] for record in results.values()}
    assert {f"{figure}.png" for figure in FIGURES} <= names
    assert {f"{figure}.csv" for figure in FIGURES} <= names
    assert all(record["caption"].strip() for record in results.values())
    assert "not comparable" in reported.read("results/report.html")
