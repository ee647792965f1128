"""What README and docs name is there: files, tests, and the rows of docs/reliability.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
TOP = ("maftp", "workflow", "tests", "benchmarks", "docs", "envs")
ENDINGS = "py|yaml|smk|csv|md|png|toml|txt|html"
TESTS = {path: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}


@pytest.fixture(params=PAGES, ids=lambda page: page.name)
def text(request) -> str:
    return request.param.read_text()


def test_files_of_the_project_exist(text):
    named = re.findall(rf"(?<![\w/.-])((?:{'|'.join(TOP)})/[\w./-]+\.(?:{ENDINGS}))\b", text)
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_tests_exist(text):
    files = {path.name for path in TESTS}
    functions = set(re.findall(r"^def (test_\w+)", "\n".join(TESTS.values()), flags=re.M))
    named = set(re.findall(r"`(?:[\w/.]+::)?(test_\w+(?:\.py)?)`", text)) - {"test_input"}
    assert named - files - functions == set()


def test_links_lead_somewhere(text):
    targets = re.findall(r"\]\((?!https?://|#)([^)#]+)", text)
    missing = [
        name
        for name in targets
        if not any((base / name).exists() for base in (ROOT, ROOT / "docs"))
    ]
    assert missing == []
