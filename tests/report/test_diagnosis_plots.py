"""Plots of diagnoses, and the sentences that their numbers make."""

import copy
import json

import pytest

from maftp.errors import MaftpError
from maftp.report.diagnosis_plots import PLOTS
from maftp.results import Run
from tests.report.test_plots import check_picture

NAMING = {"regions": 40, "clip": 50.0, "method": 60.0, "proposal": 40.0, "clip_top5": 90.0}
FOUND = {
    "gap": {"score": 40.0, "masks": 20.0, "classes": 30.0, "void": 10.0, "rest": 0.0},
    "naming": {
        "all": NAMING, "seen": NAMING | {"method": 80.0}, "unseen": NAMING | {"method": 45.0},
    },
    "recall": [
        {"iou": iou, "all": all_, "seen": all_ + 5, "unseen": all_ - 10, "small": None,
         "medium": all_, "large": all_}
        for iou, all_ in ((0.1, 95.0), (0.5, 70.0), (0.9, 20.0))
    ],
    "calibration": {
        kind: {
            "count": 10, "ece": 12.0, "confidence": 80.0, "accuracy": 68.0,
            "bins": [
                {"low": 70.0, "high": 80.0, "count": 5, "confidence": 75.0, "accuracy": 60.0},
                {"low": 80.0, "high": 90.0, "count": 5, "confidence": 85.0, "accuracy": 76.0},
            ],
        }
        for kind in ("classes", "void")
    },
    "words": {
        "regions": {
            "right": 60.0, "same meaning": 4.0, "more general": 4.0, "more specific": 2.0,
            "same kind": 10.0, "unrelated": 20.0,
        },
        "confusions": [
            {"truth": "sofa,settee", "predicted": "couch", "percent_of_errors": 10.0,
             "relation": "same meaning"}
        ],
    },
}  # fmt: skip
SENTENCES = {
    "gap": "maftp scores 40.0 on A-150 and loses most to classes (30.0 points), then to masks "
    "(20.0) and void (10.0).",
    "recall": "maftp proposes 70 % of the true regions of A-150 with an IoU of 0.5 or more (75 % "
    "of seen, 60 % of unseen classes), and 20 % with 0.9 or more.",
    "naming": "On A-150 maftp names 60 % of the true regions right when it is given their masks "
    "(80 % of seen, 45 % of unseen classes); its own best proposals bring 40 %.",
    "calibration": "On A-150 maftp is overconfident about classes (80 % stated, 68 % right; "
    "calibration error 12.0); it states that 80 % of its proposals are objects, and 68 % are "
    "(error 12.0).",
    # 10 of 40 wrong ones are words, 10 are neighbours
    "words": "Of the regions that maftp gets wrong on A-150, 25 % are a matter of words (same "
    "meaning, more general, more specific) and 25 % stay within a kind; the commonest error is "
    "sofa taken for couch (10 %).",
}


@pytest.fixture
def runs(tmp_path):
    other = copy.deepcopy(FOUND)
    other["gap"] = FOUND["gap"] | {"score": 45.0, "void": -5.0, "masks": 30.0}
    for variant, found in (("maftp", FOUND), ("fcclip", other)):
        folder = tmp_path / "made/up" / variant / "seed0/diagnosis"
        folder.mkdir(parents=True)
        (folder / "A-150.json").write_text(json.dumps(found))
    return {name: Run(tmp_path / "made/up" / name / "seed0") for name in ("maftp", "fcclip")}


@pytest.mark.parametrize("kind", PLOTS)
def test_every_plot_says_what_it_shows(runs, tmp_path, kind):
    numbers, sentence = PLOTS[kind](runs, "A-150", tmp_path / "plot.png")
    check_picture(tmp_path / "plot.png")
    assert sentence == SENTENCES[kind]
    assert list(dict.fromkeys(numbers.run)) == ["maftp", "fcclip"]


def test_errors_are_shared_out_between_relations(runs, tmp_path):
    numbers, _ = PLOTS["words"](runs, "A-150", tmp_path / "plot.png")
    first = numbers.iloc[0]
    assert (first["same meaning"], first["more specific"], first["unrelated"]) == (10, 5, 50)


@pytest.mark.parametrize("kind", PLOTS)
def test_without_a_diagnosis_it_is_said_how_to_make_one(runs, tmp_path, kind):
    with pytest.raises(MaftpError, match="PC-59; run `maftp diagnose`"):
        PLOTS[kind](runs, "PC-59", tmp_path / "plot.png")
