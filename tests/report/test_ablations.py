import numpy as np
import pandas as pd
import pytest

from maftp.errors import MaftpError
from maftp.grid import Grid, Row
from maftp.report.ablations import ablation_table, read_ablations, write_ablations
from tests.report.conftest import BENCHMARKS, SEEDS


def made_up_grid() -> Grid:
    """Two cells; the third line shows the first once more."""
    return Grid(
        rows=(
            Row("parts", "full model", "maftp", None, None),
            Row("parts", "frozen", "fcclip", "maftp", "model.name", "fcclip"),
            Row("rc_weight", "RC weight: 0.1", "maftp", "maftp", "train.rc_weight", 0.1),
        ),
        runs={"maftp": {"weights": None}, "fcclip": {"weights": None}},
    )


@pytest.fixture(scope="module")
def table(results):
    return ablation_table(
        made_up_grid(), results, experiment="made_up", benchmarks=BENCHMARKS, seeds=SEEDS, draws=50
    )


def test_means_spreads_differences_and_costs(table, results):
    full, frozen, again = (row for _, row in table.iterrows())
    assert full["mIoU"] == pytest.approx((full["A-150"] + full["PC-59"]) / 2)
    assert full["A-150 std"] > 0 and full["seeds"] == 2
    assert np.isnan(full["mIoU difference"])
    # a quality of 0.4 against 0.6, see conftest.py
    assert -40 < frozen["mIoU low"] <= frozen["mIoU difference"] <= frozen["mIoU high"] < 0
    assert frozen["PQ difference"] < 0
    assert frozen["training_seconds"] == 90 and frozen["trained as"] == "fcclip"
    assert again["mIoU"] == full["mIoU"] and again["key"] == "train.rc_weight"


def test_a_cell_without_training_has_the_cost_of_its_weights(results):
    weights = "results/{experiment}/fcclip/seed{seed}/weights.safetensors"
    grid = Grid(
        rows=(
            Row("parts", "full model", "maftp", None, None),
            Row("ensemble", "head", "fcclip_shuffled", "maftp", "model.ensemble", "head"),
        ),
        runs={"maftp": {"weights": None}, "fcclip_shuffled": {"weights": weights}},
    )
    table = ablation_table(
        grid, results, experiment="made_up", benchmarks=["A-150"], seeds=[0], draws=10
    )
    assert table["trained as"].tolist() == ["maftp", "fcclip"]
    assert table["A-150 std"].isna().all()


def test_tables_are_written_and_joined(table, tmp_path):
    write_ablations([table], tmp_path / "a.csv", tmp_path / "a.md")
    text = (tmp_path / "a.md").read_text()
    assert "Not comparable with the numbers of the paper" in text
    assert "### parts" in text and "### rc weight" in text
    assert "| frozen" in text and "model.name" in text
    read = read_ablations(tmp_path / "a.csv")
    write_ablations([read], tmp_path / "b.csv", tmp_path / "b.md")
    assert (tmp_path / "b.csv").read_text() == (tmp_path / "a.csv").read_text()
    other = read.assign(experiment="mine", recipe="maftp_base")
    write_ablations([read, other], tmp_path / "both.csv", tmp_path / "both.md")
    assert (tmp_path / "both.md").read_text().count("Not comparable") == 1
    assert len(pd.read_csv(tmp_path / "both.csv")) == 6


def test_mistakes_are_named(results, tmp_path):
    with pytest.raises(MaftpError, match="no such table of ablations"):
        read_ablations(tmp_path / "none.csv")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(MaftpError, match="column experiment is missing"):
        read_ablations(tmp_path / "other.csv")
    with pytest.raises(MaftpError, match="seed7.*evaluate the run first"):
        ablation_table(
            made_up_grid(), results, experiment="x", benchmarks=["A-150"], seeds=[7], draws=5
        )
