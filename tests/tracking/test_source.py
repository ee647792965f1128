"""The digest of the code changes with its meaning and with nothing else."""

import pytest

from maftp.tracking import source


@pytest.fixture
def module(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "PACKAGE", tmp_path)
    return tmp_path / "losses.py"


def test_comments_docstrings_and_layout_do_not_count(module):
    module.write_text("def area(w, h):\n    return w * h\n")
    before = source.source_digest("losses")
    module.write_text('"""Areas."""\n\ndef area(w,\n h):\n  """Product."""\n  return w*h  # px\n')
    assert source.source_digest("losses") == before


def test_a_changed_number_counts(module):
    module.write_text("WEIGHT = 0.1\n")
    before = source.source_digest("losses")
    module.write_text("WEIGHT = 0.2\n")
    assert source.source_digest("losses") != before


def test_tables_count_by_their_bytes(tmp_path, module):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "sources.yaml").write_text("a: 1\n")
    before = source.source_digest("data")
    (folder / "sources.yaml").write_text("a: 2\n")
    assert source.source_digest("data") != before


def test_an_unknown_place_is_refused(module):
    with pytest.raises(ValueError, match="nowhere"):
        source.source_digest("nowhere")
