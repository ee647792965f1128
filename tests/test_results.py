"""A run's folder, read: the numbers as they were measured, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from maftp.errors import DataError
from maftp.results import Run, find_runs, flatten, numbers, read_counts, read_table, score_rows

RESULTS = {
    "A-150": {"metric": "semantic", "scores": {"mIoU_b": 12.345678901234, "mIoU_a": 10.0}},
    "ADE-panoptic": {"metric": "panoptic", "scores": {"PQ": 1.23456, "SQ": 60.5, "RQ": None}},
    "COCO-panoptic": {"metric": "panoptic", "scores": {"PQ": 2.0, "SQ": 3.0, "RQ": 4.0}},
    "ADE-instance": {"metric": "instance", "scores": {"AP": 7.654321, "AP50": 9.0}},
}


@pytest.fixture
def run(tmp_path) -> Run:
    folder = tmp_path / "made_up" / "maftp" / "seed3"
    (folder / "evaluation").mkdir(parents=True)
    for benchmark, result in RESULTS.items():
        (folder / "evaluation" / f"{benchmark}.json").write_text(json.dumps(result))
    manifest = {"inputs": {}, "training_seconds": 90.123456, "trainable_parameters": 5}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "history.csv").write_text("step,loss,validation\n20,1.1000000000000001,\n40,1,7.5\n")
    return Run(folder)


def test_a_run_is_named_by_its_folder(run, monkeypatch):
    assert (run.experiment, run.variant, run.seed) == ("made_up", "maftp", 3)
    assert (run.name, run.row) == ("maftp-seed3", "made_up/maftp/3")
    monkeypatch.chdir(run.path)
    assert Run(Path()).row == run.row
    for wrong in (run.path.parent, run.path / "seedling", Path("/")):
        with pytest.raises(DataError, match="no run folder"):
            Run(wrong)


def test_scores_are_not_rounded(run):
    assert run.scores == {
        "A-150": 12.345678901234, "PQ": 1.23456, "SQ": 60.5, "ADE-instance AP": 7.654321,
        "COCO-panoptic PQ": 2.0, "COCO-panoptic SQ": 3.0, "COCO-panoptic RQ": 4.0,
        "training_seconds": 90.123456, "trainable_parameters": 5.0,
    }  # fmt: skip
    assert run.evaluation("A-150").columns == {"A-150": 12.345678901234, "A-150 (a)": 10.0}


def test_rows_have_the_main_scores_of_every_run(run):
    rows = score_rows(find_runs(run.path.parents[1], ["maftp"], [3]), ["ADE-panoptic", "A-150"])
    assert [row[2:] for row in rows] == [
        ("ADE-panoptic", "PQ", 1.23456), ("ADE-panoptic", "SQ", 60.5), ("ADE-panoptic", "RQ", None),
        ("A-150", "mIoU_b", 12.345678901234), ("A-150", "mIoU_a", 10.0),
    ]  # fmt: skip


def test_history_reads_back_equal_and_without_empty_cells(run):
    assert run.history == [
        {"step": 20, "loss": 1.1000000000000001}, {"step": 40, "loss": 1, "validation": 7.5}
    ]  # fmt: skip


def test_a_run_with_the_weights_of_another_is_made_of_what_its_evaluations_say(run):
    (run.path / "manifest.json").unlink()
    for name, inputs in (("A-150", {"a": "1"}), ("ADE-instance", {"b": "2"})):
        made = {"inputs": inputs, "versions": {"torch": "2"}, "params": {"x": 1}}
        file = run.path / "evaluation" / f"{name}.json"
        file.write_text(json.dumps(RESULTS[name] | {"provenance": made}))
    assert not run.trained and run.history == [] and run.costs == {}
    assert run.origin["inputs"] == {"a": "1", "b": "2"}
    assert (run.origin["params"], run.origin["packages"]) == ({"x": 1}, {"torch": "2"})


def test_what_is_missing_or_damaged_is_named(run, tmp_path):
    with pytest.raises(DataError, match=r"PAS-20\.json: no such result; evaluate the run first"):
        run.evaluation("PAS-20")
    with pytest.raises(DataError, match=r"A-150\.json: says nothing of per_class"):
        run.evaluation("A-150").per_class  # noqa: B018
    with pytest.raises(DataError, match=r"drift\.json: no such result; run `maftp drift` first"):
        run.drift  # noqa: B018
    (run.path / "history.csv").write_text("step,loss\n20,much\n")
    with pytest.raises(DataError, match=r"history\.csv: no table .*much"):
        run.history  # noqa: B018
    (run.path / "manifest.json").write_text("{")
    with pytest.raises(DataError, match=r"manifest\.json: not readable as JSON .* train the run"):
        run.manifest  # noqa: B018
    with pytest.raises(DataError, match="neither trained nor evaluated"):
        Run(tmp_path / "a" / "b" / "seed0").origin  # noqa: B018


@pytest.mark.parametrize(
    "content",
    [
        *([], {}, {"metric": "other", "scores": {}}, {"metric": "instance", "scores": None}),
        {"metric": "semantic", "scores": {"mIoU_b": 1.0}},
    ],
)
def test_a_file_that_is_no_result_is_refused(run, content):
    (run.path / "evaluation" / "A-150.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"A-150\.json: no result of an evaluation"):
        run.evaluation("A-150")


def test_tables_are_checked(tmp_path):
    path = tmp_path / "images.csv"
    with pytest.raises(
        DataError, match="no such statistics of a semantic .* evaluate the run first"
    ):
        read_counts(tmp_path, "semantic")
    path.write_text("image,class,iou\n01,0,1\n")
    for metric, column in (("panoptic", "true_positives"), ("semantic", "correct")):
        with pytest.raises(DataError, match=f"of a {metric} benchmark, column {column} is missing"):
            read_counts(tmp_path, metric)
    with pytest.raises(DataError, match="column x is missing; make it again"):
        read_table(path, what="table", remedy="make it", columns=["image", "x"])
    path.write_text("")
    with pytest.raises(DataError, match="no table"):
        read_counts(tmp_path, "semantic")


def test_nested_values_are_joined():
    nested = {"a": {"b": 1, "c": {"d": None}}, "e": [1, 2], "f": {}, "g": True}
    assert flatten(nested) == {"a.b": 1, "a.c.d": None, "e": [1, 2], "g": True}
    assert numbers(nested) == {"a/b": 1.0}
