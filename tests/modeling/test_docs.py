"""The page on adding a method shows the change that one took: its excerpts are the real lines."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/adding_a_method.md").read_text()
FENCES = re.findall(r"^```(python|yaml|csv)\n(.*?)^```$", PAGE, re.M | re.S)
PATHS = re.findall(r"`((?:maftp|workflow|tests)/[\w/.]+\.(?:py|yaml|csv))`|`(params\.yaml)`", PAGE)
FILES = {path or other for path, other in PATHS}


@pytest.mark.parametrize("index", range(len(FENCES)))
def test_excerpts_are_literal(index):
    kind, excerpt = FENCES[index]
    sources = [ROOT / path for path in FILES if path.endswith(f".{kind[:2]}") or kind != "python"]
    assert any(excerpt.strip("\n") in path.read_text() for path in sources)


def test_named_files_exist_and_the_change_is_short():
    assert all((ROOT / path).exists() for path in FILES)
    experiment = (ROOT / "workflow/experiments/ovrcoat_large_panoptic.yaml").read_text()
    assert f"({len(experiment.splitlines())} lines)" in PAGE
    lines = sum(len(excerpt.splitlines()) for _, excerpt in FENCES)
    assert 150 < lines + len(experiment.splitlines()) < 300
