"""Rows that were made with other libraries are marked."""

import json

import pytest

from maftp.report.tables import experiment_table, merge_tables, write_table
from tests.report.test_tables import make_run, rows_of


@pytest.fixture
def noted(tmp_path):
    """Write a run that was evaluated and trained with a Pillow."""

    def make(run: str, pillow: str, digest: str, *, trained: bool = True):
        folder = make_run(tmp_path, run, 30, trained=trained)
        origin = {"pictures": {"decode JPEG": digest}, "device": "cpu"}
        for file in (folder / "evaluation").glob("*.json"):
            result = json.loads(file.read_text())
            made = origin | {"versions": {"pillow": pillow, "torch": "2"}}
            file.write_text(json.dumps(result | {"provenance": made}))
        if trained:
            manifest = json.loads((folder / "manifest.json").read_text())
            manifest |= origin | {"packages": {"pillow": pillow, "ray": "2"}}
            (folder / "manifest.json").write_text(json.dumps(manifest))
        return folder

    return make


def test_equal_environments_are_not_spoken_of(noted, tmp_path):
    table = experiment_table(
        [noted("a/maftp/seed0", "13", "12ab"), noted("a/b/seed0", "13", "12ab")]
    )
    assert set(table.environment) == {""}
    write_table(table, tmp_path / "table.csv", tmp_path / "table.md")
    assert "environment" not in (tmp_path / "table.md").read_text()


def test_rows_of_another_environment_are_marked(noted, tmp_path):
    runs = [
        noted("a/maftp/seed0", "13", "12ab"),
        noted("a/maftp/seed1", "9.3", "ff00"),
        noted("a/control/seed0", "13", "12ab", trained=False),
    ]
    table = experiment_table(runs)
    assert table.environment.tolist() == [
        "evaluated with pillow 13; evaluated (decode JPEG) 12ab; trained with pillow 13; "
        "trained (decode JPEG) 12ab",
        "evaluated with pillow 9.3; evaluated (decode JPEG) ff00; trained with pillow 9.3; "
        "trained (decode JPEG) ff00",
        "evaluated with pillow 13; evaluated (decode JPEG) 12ab",
    ]
    write_table(table, tmp_path / "table.csv", tmp_path / "table.md")
    for file in ("table.md", "merged.md"):
        merge_tables([tmp_path / "table.csv"], tmp_path / "merged.csv", tmp_path / "merged.md")
        text = (tmp_path / file).read_text()
        head, _, first, last = rows_of(text)[:4]
        assert (head[-1], first[-1], last[-1]) == ("environment", "A, B", "C")
        assert "**Not made in one environment**" in text
        assert "- B: evaluated with pillow 9.3; evaluated (decode JPEG) ff00;" in text


def test_what_old_results_do_not_say_is_no_difference(noted):
    old = noted("a/old/seed0", "13", "12ab")
    for file in (old / "evaluation").glob("*.json"):
        result = json.loads(file.read_text())
        del result["provenance"]["pictures"]
        file.write_text(json.dumps(result))
    table = experiment_table([noted("a/new/seed0", "13", "12ab"), old])
    assert set(table.environment) == {""}
