"""Asking to stop, and what an interruption cost."""

from __future__ import annotations

import os
import signal

import pytest

from maftp.cli import main
from maftp.errors import Preempted
from maftp.training.interruption import Pulse, StopNote, describe_loss, heeding_signals


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


def test_pulse(tmp_path):
    now = [0.0]
    pulse = Pulse(tmp_path, clock=lambda: now[0])
    assert not pulse.marked and pulse.lost(step=4, seconds=8.0) == (0, 0.0)
    pulse.mark(step=5, seconds=10.0)
    now[0] = 0.5
    pulse.mark(step=6, seconds=12.0)  # too soon
    assert pulse.lost(step=4, seconds=8.0) == (1, 2.0)
    now[0] = 1.0
    pulse.mark(step=7, seconds=14.0)
    assert pulse.lost(step=4, seconds=8.0) == (3, 6.0)
    assert Pulse(tmp_path).lost(step=8, seconds=16.0) == (0, 0.0)
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
