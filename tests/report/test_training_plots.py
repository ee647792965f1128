"""Curves of a training, and histories that are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maftp.errors import DataError
from maftp.report.training_plots import plot_losses


def test_losses(tmp_path: Path):
    history = tmp_path / "history.csv"
    history.write_text(
        "step,loss,loss_ce,loss_ce_0,loss_dice,seconds\n20,6,1,2,3,9\n40,4,1,1,2,9\n"
    )
    plot_losses(history, tmp_path / "curves.png", title="miniature/maftp/seed0")
    picture = np.asarray(Image.open(tmp_path / "curves.png").convert("L"))
    assert picture.shape == (630, 1050)
    assert (picture < 60).any()


@pytest.mark.parametrize("text", ["", "step,seconds\n1,2\n", "loss_ce\n1\n"])
def test_a_wrong_history_is_named(tmp_path: Path, text: str):
    history = tmp_path / "history.csv"
    history.write_text(text)
    with pytest.raises(DataError, match=r"history\.csv"):
        plot_losses(history, tmp_path / "curves.png", title="x")
    with pytest.raises(DataError, match=r"gone\.csv: no such history"):
        plot_losses(tmp_path / "gone.csv", tmp_path / "curves.png", title="x")
    assert not (tmp_path / "curves.png").exists()
