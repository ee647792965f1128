"""The pages on data show what is there: excerpts, commands and names are the real ones."""

import re
from pathlib import Path

import pytest

from maftp.data.catalog import load_catalog

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs"


def excerpts(kind):
    page = (PAGES / "adding_a_benchmark.md").read_text()
    return re.findall(rf"^```{kind}\n(.*?)^```$", page, re.M | re.S)


def test_catalog_excerpts_are_literal():
    catalog = (ROOT / "maftp/data/sources.yaml").read_text()
    assert len(excerpts("yaml")) == 3
    assert all(f"\n{excerpt}" in catalog for excerpt in excerpts("yaml"))


def test_code_excerpts_are_literal():
    folder = ROOT / "maftp/data/convert"
    code = (folder / "cityscapes.py").read_text() + (folder / "run.py").read_text()
    assert len(excerpts("python")) == 2
    assert all(excerpt in code for excerpt in excerpts("python"))


def test_every_dataset_and_released_file_is_on_the_page():
    page, catalog = (PAGES / "data.md").read_text(), load_catalog()
    assert all(f"`{name}`" in page for name in catalog.datasets)
    assert all(f"`{entry.file}`" in page for entry in catalog.weights.values())
    for dataset in catalog.datasets.values():
        assert all(f"{split.count:,}" in page for split in dataset.splits.values())


@pytest.mark.parametrize("page", ["data.md", "adding_a_benchmark.md"])
def test_named_files_exist(page):
    text = (PAGES / page).read_text()
    links = [target for target in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in target]
    assert all((PAGES / target).exists() for target in links)
    for path in re.findall(r"`((?:maftp|tests|workflow)/[\w/.]+\.(?:py|yaml))`", text):
        assert (ROOT / path).exists(), path
