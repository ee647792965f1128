"""What workers say before they give up: it gets through a full disk, and tells what may pass."""

from __future__ import annotations

import pytest

from maftp.errors import CheckpointError, Interrupted, Preempted, TrainingError
from maftp.training.job import LastWords


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TrainingError("step 7: nan"), TrainingError),
        (CheckpointError("a.pt: of another model"), TrainingError),
        (Interrupted("memory"), Interrupted),
        (Preempted("asked to"), Interrupted),
        (TrainingError("é" * 500), TrainingError),
    ],
)
def test_words_come_through(tmp_path, error, kind):
    words = LastWords(tmp_path / "checkpoints")
    assert words.read() is None
    words.make_room()
    assert words.read() is None
    size = (tmp_path / "checkpoints/failure.json").stat().st_size
    words.say(error)
    found = words.read()
    assert type(found) is kind and str(found) == str(error)
    assert (tmp_path / "checkpoints/failure.json").stat().st_size == size  # no room is needed
    words.make_room()
    assert words.read() is None


def test_the_last_words_replace_longer_ones(tmp_path):
    words = LastWords(tmp_path)
    words.make_room()
    for text in ("long " * 100, "short"):
        words.say(TrainingError(text))
    assert str(words.read()) == "short"
