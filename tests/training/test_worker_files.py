"""Asking to stop, what an interruption cost, and what workers say before they give up."""

from __future__ import annotations

import os
import signal

import pytest

from maftp.cli import main
from maftp.errors import CheckpointError, Interrupted, Preempted, TrainingError
from maftp.training.launch import heeding_signals
from maftp.training.worker_files import Heartbeat, LastWords, StopNote, describe_loss


def test_stop_note(tmp_path):
    note = StopNote(tmp_path / "checkpoints")
    assert not note.asked()
    note.clear()
    assert not note.asked()
    note.ask()
    assert note.asked() and StopNote(tmp_path / "checkpoints").asked_lately()
    note.clear()
    assert not note.asked()


def test_looking_is_rare(tmp_path):
    note = StopNote(tmp_path)
    note.clear()
    assert not note.asked_lately()
    note.ask()
    assert not note.asked_lately()  # within the second


def test_first_sigterm_asks_and_the_second_interrupts(tmp_path):
    note = StopNote(tmp_path)
    note.clear()
    before = signal.getsignal(signal.SIGTERM)
    with heeding_signals(note):
        os.kill(os.getpid(), signal.SIGTERM)
        assert note.asked()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before


def test_heartbeat(tmp_path):
    now = [0.0]
    heartbeat = Heartbeat(tmp_path, clock=lambda: now[0])
    assert not heartbeat.marked and heartbeat.lost(step=4, seconds=8.0) == (0, 0.0)
    heartbeat.mark(step=5, seconds=10.0)
    now[0] = 0.5
    heartbeat.mark(step=6, seconds=12.0)  # too soon
    assert heartbeat.lost(step=4, seconds=8.0) == (1, 2.0)
    now[0] = 1.0
    heartbeat.mark(step=7, seconds=14.0)
    assert heartbeat.lost(step=4, seconds=8.0) == (3, 6.0)
    assert Heartbeat(tmp_path).lost(step=8, seconds=16.0) == (0, 0.0)
    assert describe_loss(step=4, lost=(3, 6.0)) == (
        "going on from step 4; lost 3 steps, 6.0 s of training"
    )


def test_preemption_has_its_own_exit_code(monkeypatch, capsys):
    def preempted(*arguments, **options):
        raise Preempted("asked to end; step 8 is saved, run it again to go on")

    monkeypatch.setattr("maftp.training.launch.launch", preempted)
    code = main(["train", "--clip", "c", "--text", "t", "--out", "o"])
    assert code == 75
    assert capsys.readouterr().err == (
        "maftp train: asked to end; step 8 is saved, run it again to go on\n"
    )


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
