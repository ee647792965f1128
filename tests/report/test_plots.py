"""Plots are drawn, and their numbers are those of the results."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from maftp.errors import MaftpError
from maftp.report import style
from maftp.report.ablations import ablation_table
from maftp.report.class_plots import plot_classes, plot_confusion
from maftp.report.method_plots import plot_ablations, plot_drift, read_drift
from maftp.report.provenance import provenance_table
from maftp.report.score_plots import plot_cost, plot_protocols, plot_scores
from maftp.report.style import COLOURS, MARKERS
from maftp.results import Run, find_runs
from tests.report.conftest import BENCHMARKS, SEEDS, VARIANTS
from tests.report.test_ablations import made_up_grid


@pytest.fixture
def path(tmp_path):
    return tmp_path / "plots" / "plot.png"


@pytest.fixture(scope="module")
def runs(results):
    return find_runs(results, VARIANTS, SEEDS)


def check_picture(path) -> None:
    """The plot has ink, keeps a white margin, and tells things apart without colour."""
    pixels = np.asarray(Image.open(path).convert("L"))
    assert (pixels < 100).sum() > 500
    assert (pixels[:3] > 250).all() and (pixels[:, :3] > 250).all()


def luminance(colour: str) -> float:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_neighbouring_marks_differ_in_shape_and_lightness():
    assert len(set(MARKERS)) == len(MARKERS) >= len(COLOURS)
    for one, other in zip(COLOURS, COLOURS[1:], strict=False):
        assert abs(luminance(one) - luminance(other)) > 20


def test_scores(runs, path):
    numbers = plot_scores(runs, BENCHMARKS, path)
    check_picture(path)
    row = numbers[(numbers.benchmark == "A-150") & (numbers.variant == "maftp")].iloc[0]
    wanted = [run.evaluation("A-150").scores["mIoU_b"] for run in runs[:2]]
    assert row["mean"] == pytest.approx(np.mean(wanted))
    assert row["std"] == pytest.approx(np.std(wanted, ddof=1))
    assert set(numbers[numbers.benchmark == "ADE-panoptic"].score) == {"PQ"}


def test_protocols(runs, path):
    numbers = plot_protocols(runs, BENCHMARKS, path)
    check_picture(path)
    assert set(numbers.benchmark) == {"A-150", "PC-59"}
    assert np.allclose(numbers.mIoU_a, 0.9 * numbers.mIoU_b)


def test_cost_shows_trained_variants(runs, path):
    numbers = plot_cost(runs, BENCHMARKS, None, path)
    check_picture(path)
    assert list(numbers.name) == ["maftp", "fcclip"]
    assert numbers.minutes.tolist() == [1.5, 1.5]  # one and two minutes


def test_scores_and_cost_of_a_panoptic_experiment(runs, results, path):
    """As maftp_large_panoptic.yaml: no benchmark has mIoU."""
    only = ["ADE-panoptic"]
    assert set(plot_scores(runs, only, path).score) == {"PQ"}
    cells = ablation_table(
        made_up_grid(), results, experiment="made_up", benchmarks=only, seeds=SEEDS, draws=5
    )
    numbers = plot_cost(runs, only, cells, path)
    check_picture(path)
    wanted = [
        np.mean([run.evaluation(only[0]).scores["PQ"] for run in runs[k : k + 2]]) for k in (0, 2)
    ]
    assert numbers.PQ.tolist() == pytest.approx([*wanted, *wanted])
    assert numbers.group.tolist() == ["variants"] * 2 + ["ablations"] * 2


def test_scores_and_cost_of_instances(runs, tmp_path, path):
    run = Run(tmp_path / "maftp/seed0")
    shutil.copytree(runs[0].path, run.path)
    for precision in (31.5, None):  # without ground truth there is none
        content = {"metric": "instance", "scores": {"AP": precision, "AP50": precision}}
        (run.path / "evaluation/town.json").write_text(json.dumps(content))
        wanted = pytest.approx([np.nan if precision is None else precision], nan_ok=True)
        assert plot_scores([run], ["town"], path)["mean"].tolist() == wanted
        assert plot_cost([run], ["town"], None, path).AP.tolist() == wanted
        check_picture(path)


def test_classes(results, runs, path):
    numbers = plot_classes(runs[:2], runs[2:4], BENCHMARKS, path)
    check_picture(path)
    assert len(numbers) == 2 * 4
    assert numbers.seen.sum() == 4
    first = numbers.iloc[0]
    wanted = np.mean([run.evaluation("A-150").per_class[0]["IoU"] for run in runs[:2]])
    assert first.method == pytest.approx(wanted)


def test_confusion(runs, path):
    numbers = plot_confusion(runs[0], "A-150", path)
    check_picture(path)
    assert set(map(tuple, numbers[["truth", "predicted"]].to_numpy())) == {
        ("sky", "grass"), ("grass", "cat"), ("cat", "red car"), ("red car", "sky"),
    }  # fmt: skip
    assert numbers.pixels.is_monotonic_decreasing
    assert np.allclose(numbers.percent_of_truth, numbers.pixels / 8, atol=0.01)


def test_ablations(results, path):
    table = ablation_table(
        made_up_grid(), results, experiment="made_up", benchmarks=BENCHMARKS, seeds=SEEDS, draws=50
    )
    numbers = plot_ablations(table, path)
    check_picture(path)
    assert list(numbers.run) == ["fcclip"]
    with pytest.raises(MaftpError, match="no cell but the full model"):
        plot_ablations(table[table.run == "maftp"], path)


def test_drift(tmp_path, path):
    runs = {}
    for title, after in (("with RC", 70.0), ("without RC", 40.0)):
        part = {"regions": 10, "accuracy_before": 75.0, "accuracy_after": after, "cosine": 0.9}
        runs[title] = [Run(tmp_path / title / "seed0")]
        runs[title][0].path.mkdir(parents=True)
        (runs[title][0].path / "drift.json").write_text(
            json.dumps({"all": part, "seen": part, "unseen": part})
        )
    numbers = plot_drift(read_drift(runs), path, benchmark="A-150")
    check_picture(path)
    assert numbers.groupby("run").accuracy_after.mean().to_dict() == {
        "with RC": 70.0,
        "without RC": 40.0,
    }


def test_provenance_names_shared_facts_once(runs):
    table = provenance_table(runs, BENCHMARKS)
    facts = table.groupby("fact").run.agg(list)
    assert facts["commit"] == ["all runs"]
    assert facts["params_digest"] == [
        "maftp/seed0", "maftp/seed1", "fcclip/seed0", "fcclip/seed1",
    ]  # fmt: skip
    assert {"input clip", "version of torch", "vocabulary of A-150"} <= set(facts.index)


def test_a_missing_result_is_named(results, path):
    with pytest.raises(MaftpError, match=r"nothing/seed0/evaluation/A-150\.json"):
        plot_scores(find_runs(results, ["nothing"], [0]), BENCHMARKS, path)


def test_eight_variants_are_told_apart():
    """As many as benchmarks/miniature_family.yaml has."""
    for looks in (style.COLOURS, style.MARKERS, style.DASHES, style.FILLS, style.HATCHES):
        assert len(set(looks)) == len(looks) == 8
