"""The documentation builds as a site without a warning; a browser shows it without a network."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from playwright.sync_api import sync_playwright

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_document_is_a_page(site):
    documents = {path.stem for path in (ROOT / "docs").glob("*.md")}
    pages = {path.stem for path in site.glob("*.html")} - {"404"}
    assert pages == documents | {"index", "changelog", "parameters", "reference"}
    shown = re.findall(r'href="([\w-]+)\.html"', (site / "index.html").read_text())
    assert pages - {"index"} <= set(shown)


def test_every_parameter_is_on_its_page(site):
    schema = json.loads((ROOT / "params.schema.json").read_text())
    page = (site / "parameters.html").read_text()
    blocks = [schema, *(block for block in schema["$defs"].values() if "properties" in block)]
    for block in blocks:
        for key in block["properties"]:
            assert f"<code>{key}</code>" in page


def test_formulas_of_the_papers_are_in_the_reference(site):
    page = (site / "reference.html").read_text()
    for name in ("mask_aware_loss", "representation_compensation_loss", "MaftPlus", "load_model"):
        assert f"{name}</" in page


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_pages_need_no_network(site):
    asked = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 800})
        page.on("request", lambda request: asked.append(request.url))
        for name in ("index", "parameters", "reference"):
            page.goto((site / f"{name}.html").as_uri())
            width = page.evaluate("document.documentElement.scrollWidth")
            assert width <= 390, name  # a phone need not scroll sideways
        browser.close()
    # Not `requestfailed`: leaving a page breaks off what it still loads, such as its icon.
    files = {unquote(urlsplit(url).path) for url in asked if not url.startswith("data:")}
    assert all(url.startswith(("file:", "data:")) for url in asked)
    assert len(files) > 3 and all(Path(file).is_file() for file in files)
