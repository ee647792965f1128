"""Tables from result files: columns, order, protocols, means over seeds, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from maftp.config import load_params
from maftp.errors import MaftpError
from maftp.report.tables import experiment_table, merge_tables, write_table

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ["A-847", "A-150", "PC-459", "PC-59", "PAS-20", "ADE-panoptic"]
COLUMNS = [
    *["experiment", "variant", "seed", "A-847", "A-150", "PC-459", "PC-59", "PAS-20"],
    *["PQ", "SQ", "RQ"],
    *["trainable_parameters", "training_seconds", "peak_host_memory_mb", "peak_gpu_memory_mb"],
    *["A-847 (a)", "A-150 (a)", "PC-459 (a)", "PC-59 (a)", "PAS-20 (a)", "protocol"],
    *["steps", "images", "images_of_benchmarks", "recipe", "deviations", "released", "environment"],
]


def make_run(root: Path, run: str, score: float, *, trained: bool = True) -> Path:
    """Write a run whose every mIoU (b) is `score`, mIoU (a) half of it, PQ a tenth."""
    folder = root / run
    (folder / "evaluation").mkdir(parents=True)
    for benchmark in BENCHMARKS:
        semantic = benchmark != "ADE-panoptic"
        scores = {"mIoU_a": score / 2, "mIoU_b": score, "images": 10}
        if not semantic:
            scores = {"PQ": score / 10, "SQ": 70.0, "RQ": 30.0, "images": 10}
        result = {"metric": "semantic" if semantic else "panoptic", "scores": scores}
        result["images_of_benchmark"] = 20
        (folder / "evaluation" / f"{benchmark}.json").write_text(json.dumps(result))
    if trained:
        manifest = {
            "trainable_parameters": 1234567,
            "training_seconds": 90,
            "peak_host_memory_mb": 1500,
            "steps": 700,
        }
        (folder / "manifest.json").write_text(json.dumps(manifest | {"commit": "0"}))
    return folder


def write(table: pd.DataFrame, folder: Path) -> tuple[str, str]:
    write_table(table, folder / "table.csv", folder / "table.md")
    return (folder / "table.csv").read_text(), (folder / "table.md").read_text()


def rows_of(markdown: str) -> list[list[str]]:
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_csv_has_the_fixed_columns_and_two_decimals(tmp_path: Path):
    runs = [
        make_run(tmp_path, "miniature/maftp/seed0", 30.456),
        make_run(tmp_path, "miniature/shuffled/seed0", 3, trained=False),
    ]
    csv, _ = write(experiment_table(runs, benchmarks=BENCHMARKS), tmp_path)
    lines = [line.partition(',"nearest to ')[0] for line in csv.splitlines()]
    assert lines[0].split(",") == COLUMNS
    protocol = "mIoU (b): mean over classes in ground truth"
    assert lines[1] == (
        "miniature,maftp,0,30.46,30.46,30.46,30.46,30.46,3.05,70.00,30.00,"
        f"1234567,90.00,1500.00,,15.23,15.23,15.23,15.23,15.23,{protocol},700,60,120,"
    )
    assert lines[2] == (
        "miniature,shuffled,0,3.00,3.00,3.00,3.00,3.00,0.30,70.00,30.00,"
        f",,,,1.50,1.50,1.50,1.50,1.50,{protocol},,60,120,"
    )


def test_further_benchmarks_come_after_the_fixed_ones(tmp_path: Path):
    run = make_run(tmp_path, "a/b/seed1", 10)
    for name in ("PAS-21", "COCO-panoptic"):
        source = "A-150" if name == "PAS-21" else "ADE-panoptic"
        text = (run / "evaluation" / f"{source}.json").read_text()
        (run / "evaluation" / f"{name}.json").write_text(text)
    columns = list(experiment_table([run]).columns)
    extra = ["COCO-panoptic PQ", "COCO-panoptic SQ", "COCO-panoptic RQ", "PAS-21"]
    assert columns[15:19] == extra
    assert columns[19:] == [*COLUMNS[15:20], "PAS-21 (a)", *COLUMNS[20:]]


def test_markdown_averages_seeds(tmp_path: Path):
    runs = [
        make_run(tmp_path, "miniature/maftp/seed0", 30),
        make_run(tmp_path, "miniature/maftp/seed1", 34),
        make_run(tmp_path, "miniature/fcclip/seed0", 25),
    ]
    _, markdown = write(experiment_table(runs), tmp_path)
    table = rows_of(markdown)
    head, maftp, fcclip = table[0], table[2], table[3]
    assert head[:2] == ["variant", "seeds"] and "PC-459 (b)" in head
    # seeds 30 and 34: mean 32, sample deviation sqrt((4 + 4) / 1) = 2.83; 32 - 25 = +7
    assert maftp[head.index("mean of five")] == maftp[2] == "32.00 ± 2.83"
    assert fcclip[2] == "25.00"
    assert maftp[-3:] == ["1.23", "1.50", "1.50"]  # million parameters, minutes, gigabytes
    assert (maftp[head.index("steps")], maftp[head.index("images")]) == ("700", "60 of 120")
    union = table[4:]
    assert "PC-459 (a)" in union[0]
    assert union[2][2] == "16.00 ± 1.41"


PUBLISHED = load_params(ROOT / "params.yaml", ROOT / "workflow/experiments/maftp_base.yaml")


def note_params(run: Path, params: dict) -> None:
    """Record parameters with a run and its evaluations, as training and evaluation do."""
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps(manifest | {"params": params}))
    for file in (run / "evaluation").glob("*.json"):
        kept = {key: params[key] for key in ("input", "clip", "model", "evaluate", "weights")}
        result = json.loads(file.read_text()) | {"provenance": {"params": kept}}
        file.write_text(json.dumps(result))


def test_a_run_of_the_recipe_stands_beside_the_paper_whatever_it_is_called(tmp_path: Path):
    run = make_run(tmp_path, "mine/maftp/seed0", 30)
    note_params(run, PUBLISHED.for_variant("maftp").model_dump(mode="json"))
    _, markdown = write(experiment_table([run]), tmp_path)
    assert "Not comparable" not in markdown
    assert "Compared with the paper" in markdown and "13.8" in markdown


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.iterations", 2),
        ("input.test.short_side", 640),
        ("evaluate.max_images", 1),
        ("data.catalog", "other.yaml"),
        ("weights", "x.pth"),
    ],
)
def test_another_recipe_is_never_compared_whatever_it_is_called(tmp_path: Path, key, value):
    run = make_run(tmp_path, "maftp_base_quick/maftp/seed0", 30)
    params = PUBLISHED.for_variant("maftp").model_dump(mode="json")
    *path, last = key.split(".")
    block = params
    for part in path:
        block = block[part]
    block[last] = value
    note_params(run, params)
    csv, markdown = write(experiment_table([run]), tmp_path)
    assert "Not comparable with the numbers of the paper" in markdown
    assert f"{key}: {value} instead of" in markdown and key in csv
    assert "Compared with the paper" not in markdown


def test_what_records_no_parameters_is_not_compared(tmp_path: Path):
    run = make_run(tmp_path, "maftp_large/maftp/seed0", 30)
    assert "Not comparable" in write(experiment_table([run]), tmp_path)[1]


def test_instances_have_a_column(tmp_path: Path):
    run = make_run(tmp_path, "a/b/seed0", 10)
    result = {"metric": "instance", "scores": {"AP": 12.345, "AP50": 20.0}}
    (run / "evaluation" / "ADE-instance.json").write_text(json.dumps(result))
    table = experiment_table([run], benchmarks=["A-150", "ADE-instance"])
    assert table["ADE-instance AP"].tolist() == [12.345]
    assert "12.35" in write(table, tmp_path)[1]


def test_mean_of_five_needs_all_five(tmp_path: Path):
    run = make_run(tmp_path, "samples/maftp/seed0", 30)
    (run / "evaluation" / "PC-59.json").unlink()
    _, markdown = write(experiment_table([run]), tmp_path)
    head, _, row = rows_of(markdown)[:3]
    assert "mean of five" not in head and "PC-59" not in head  # no column without a number
    assert row[head.index("images")] == "50 of 100"


def test_merging_gives_the_same_as_one_table(tmp_path: Path):
    runs = [
        make_run(tmp_path, "miniature/maftp/seed0", 31.237),
        make_run(tmp_path, "samples/maftp/seed0", 2, trained=False),
    ]
    extra = (runs[1] / "evaluation" / "A-150.json").read_text()
    (runs[1] / "evaluation" / "PAS-21.json").write_text(extra)
    whole = write(experiment_table(runs), tmp_path / "whole")
    for index, run in enumerate(runs):
        write(experiment_table([run]), tmp_path / str(index))
    csvs = [tmp_path / "0" / "table.csv", tmp_path / "1" / "table.csv"]
    merge_tables(csvs, tmp_path / "table.csv", tmp_path / "table.md")
    assert (tmp_path / "table.csv").read_text() == whole[0]
    assert rows_of((tmp_path / "table.md").read_text()) == rows_of(whole[1])
    with pytest.raises(MaftpError, match="miniature/maftp/0 stands in two tables"):
        merge_tables([csvs[0], csvs[0]], tmp_path / "table.csv", tmp_path / "table.md")


def test_what_is_refused(tmp_path: Path):
    run = make_run(tmp_path, "miniature/maftp/seed0", 1)
    with pytest.raises(MaftpError, match=r"PAS-21\.json: no such result; evaluate"):
        experiment_table([run], benchmarks=["PAS-21"])
    (run / "evaluation" / "A-150.json").write_text("{}")
    with pytest.raises(MaftpError, match=r"A-150\.json: no result of an evaluation"):
        experiment_table([run])
    (run / "evaluation" / "A-150.json").write_text("{")
    with pytest.raises(MaftpError, match=r"A-150\.json: not readable as JSON"):
        experiment_table([run])
    with pytest.raises(MaftpError, match="no run folder"):
        experiment_table([tmp_path])
    with pytest.raises(MaftpError, match=r"gone\.csv: no such table"):
        merge_tables([tmp_path / "gone.csv"], tmp_path / "a.csv", tmp_path / "a.md")
    assert not (tmp_path / "a.csv").exists()


def test_a_score_that_is_not_defined_is_an_empty_cell(tmp_path: Path):
    run = make_run(tmp_path, "miniature/maftp/seed0", 1)
    result = {"metric": "semantic", "scores": {"mIoU_a": None, "mIoU_b": None}}
    (run / "evaluation" / "A-847.json").write_text(json.dumps(result))
    csv, _ = write(experiment_table([run]), tmp_path)
    assert csv.splitlines()[1].startswith("miniature,maftp,0,,1.00")
