"""Cards of made-up runs, read back by the hub's own reader."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from maftp.api import experiment_params
from maftp.cli import main
from maftp.errors import DataError
from maftp.report.model_card import model_card, run_subject, weights_subject, write_cards
from maftp.results import Run

SECTIONS = ["Use", "Training", "Scores", "Limits", "Licence", "How it was made"]


@pytest.fixture(scope="module")
def run(results) -> Run:
    return Run(results / "maftp" / "seed1")


@pytest.fixture(scope="module")
def card(run) -> ModelCard:
    return ModelCard(model_card(run_subject(run)))


def check(card: ModelCard) -> None:
    """Ask of a card what the hub asks of it (its own check needs the hub)."""
    data = card.data.to_dict()
    assert data["license"] != "other" or data["license_name"] and data["license_link"]
    assert all(isinstance(tag, str) for tag in [*data["tags"], data["pipeline_tag"]])
    for model in data.get("model-index", []):
        assert model["name"]
        for result in model["results"]:
            assert result["task"]["type"] == data["pipeline_tag"]
            assert {"name", "type"} <= result["dataset"].keys()
            assert all({"type", "value"} <= metric.keys() for metric in result["metrics"])
    assert [line[3:] for line in card.text.splitlines() if line.startswith("## ")] == SECTIONS


def test_scores_are_the_run_s_in_both_parts(card, run):
    check(card)
    found = {
        (result.dataset_type, result.metric_name.split(",")[0]): result.metric_value
        for result in card.data.eval_results
    }
    scores = run.evaluation("A-150").scores
    assert found["A-150", "mIoU (b)"] == round(scores["mIoU_b"], 2)
    assert found["A-150", "mIoU (a)"] == round(scores["mIoU_a"], 2)
    assert f"| A-150 | mIoU_b | {scores['mIoU_b']:.2f} | [" in card.text
    assert found.keys() >= {("ADE-panoptic", "panoptic quality"), ("PC-59", "mIoU (b)")}
    assert "A-150, drawn by maftp's miniature world" == card.data.eval_results[0].dataset_name


def test_what_the_weights_were_made_of(card):
    for text in (
        "c0ffee",
        "maftp train",
        "| `train.iterations` | 500 |",
        "torch 2",
        "2.0 min",
        "0.9 GB",
    ):
        assert text in card.text
    assert "cannot be compared with those on photographs" in card.text.replace("\n", " ")
    assert card.data.license == "apache-2.0"  # everything was drawn here


def test_cards_are_written_beside_trained_weights_alone(results, tmp_path):
    runs = []
    for variant in ("maftp", "fcclip_shuffled"):
        copy = shutil.copytree(
            results / variant / "seed0", tmp_path / "made_up" / variant / "seed0"
        )
        runs.append(Run(Path(copy)))
    write_cards(runs)
    assert (runs[0].path / "README.md").is_file() and not (runs[1].path / "README.md").exists()
    (runs[0].path / "manifest.json").write_text(json.dumps({"seed": 0}))
    with pytest.raises(DataError, match="says nothing of parameters; train the run again"):
        write_cards([Run(runs[0].path)])


def test_without_a_score_nothing_is_made_up(run):
    text = model_card(dataclasses.replace(run_subject(run), evaluations=()))
    check(ModelCard(text))
    assert "Not measured, or not recorded" in text and "model-index" not in text


def test_official_data_name_their_terms_and_leave_the_licence_open(tmp_path):
    params = experiment_params("maftp_base")
    subject = weights_subject(tmp_path / "own.safetensors", params, use="-")
    card = ModelCard(model_card(subject))
    check(card)
    assert (card.data.license, card.data.license_name) == ("other", "not-stated")
    assert "| COCO-Stuff pixel maps | CC BY 4.0. |" in card.text
    assert "No licence was chosen for these weights" in card.text
    chosen = dataclasses.replace(subject, licence="mit")
    assert ModelCard(model_card(chosen)).data.license == "mit"


def test_released_weights_keep_published_and_measured_apart(tmp_path):
    params = experiment_params("maftp_base_released")
    file = tmp_path / "maftp_b.safetensors"
    card = ModelCard(model_card(weights_subject(file, params, use="-")))
    check(card)
    scores = card.text.partition("## Scores")[2].partition("## Limits")[0]
    measured, published = scores.split("What the authors state (not measured here):")
    assert (
        "Not measured, or not recorded" in measured
        and "13.8" not in measured
        and "13.8" in published
    )
    assert "Licence: none stated for the weights" in card.text
    assert card.data.eval_results is None


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--hub", "x", "--out", "m.onnx"], "leave out --size, --vocabulary and --out"),
        (["--licence", "mit"], "--licence: is written into the folder of --hub"),
        (
            ["--hub", "x", "--licence", "MIT License"],
            "is not an identifier of the hub",
        ),
        (["--hub", "used"], "used: is not empty; name a new folder"),
    ],
)
def test_options_that_do_not_go_together(options, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "used").mkdir()
    (tmp_path / "used/file").touch()
    assert main(["export", "--weights", "absent.safetensors", *options]) != 0
    assert sentence in capsys.readouterr().err
