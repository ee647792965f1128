"""Folders for sockets: a long $TMPDIR is replaced, since Ray fails and data loaders hang there."""

from __future__ import annotations

import os
import socket
import tempfile

import pytest

from maftp.errors import TrainingError
from maftp.training.ray_cluster import use_short_temporary_folder

LONG = "/tmp/" + "x" * 100


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("TMPDIR", "RAY_TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield monkeypatch
    tempfile.tempdir = None


@pytest.mark.parametrize("name", ["TMPDIR", "RAY_TMPDIR"])
def test_a_long_folder_is_replaced_by_one_where_sockets_fit(environment, name, caplog):
    environment.setenv(name, LONG)
    with caplog.at_level("INFO"):
        use_short_temporary_folder()
    folder = os.environ[name]
    assert len(folder) < 20 and f"${name} is too long for sockets; using {folder}" in caplog.text
    with tempfile.TemporaryDirectory(dir=folder) as place, socket.socket(socket.AF_UNIX) as end:
        end.bind(f"{place}/socket")


def test_a_short_folder_stays(environment, tmp_path):
    environment.setenv("TMPDIR", "/var/tmp")
    use_short_temporary_folder(folders=())
    assert tempfile.gettempdir() == "/var/tmp"


def test_no_folder_is_a_sentence(environment):
    environment.setenv("TMPDIR", LONG)
    with pytest.raises(TrainingError, match=r"\$TMPDIR: /tmp/x+ is too long for"):
        use_short_temporary_folder(folders=("/nowhere",))
