"""The page in a real browser, without network."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile
from pathlib import Path

import psutil
import pytest
from PIL import Image

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]
ROOT = Path(__file__).resolve().parents[2]
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
PATIENCE = 600_000
"""Milliseconds; the machine may be busy."""


@pytest.fixture(scope="module")
def address(weights):
    """Serve the page with an untrained model, twice, until the tests are done."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["--weights", str(weights), "--beside", str(weights)]
    options += ["--port", str(port), "--no-browser"]
    command = [Path(sys.executable).with_name("maftp"), "demo", *options]
    # NiceGUI behaves differently where it sees pytest's variables.
    variables = {name: value for name, value in os.environ.items() if "PYTEST" not in name}
    server = subprocess.Popen(
        command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        yield wait_for(f"http://127.0.0.1:{port}/", server)
    finally:
        server.terminate()
        server.wait()


def wait_for(address: str, server: subprocess.Popen) -> str:
    deadline = time.monotonic() + PATIENCE / 1000
    while time.monotonic() < deadline:
        assert server.poll() is None, server.stdout.read().decode()
        try:
            urllib.request.urlopen(address, timeout=5)
            return address
        except OSError:
            time.sleep(0.5)
    pytest.fail("the page was not served in time")


@pytest.fixture(scope="module")
def browser():
    """Headless chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(address, browser):
    """The page; requests to other machines are noted and refused."""
    page = browser.new_page(viewport={"width": 1100, "height": 1300})
    page.set_default_timeout(PATIENCE)
    page.abroad = []

    def only_here(route):
        if route.request.url.startswith(address):
            route.continue_()
        else:
            page.abroad.append(route.request.url)
            route.abort()

    page.route("http*://**/*", only_here)
    page.goto(address)
    yield page
    assert not page.abroad
    page.close()


def segment_example(page, number=1):
    """Segment an example; return the two panels."""
    page.get_by_alt_text(f"example {number}").first.click()
    page.get_by_role("button", name="Segment", exact=True).click()
    overlays = page.get_by_alt_text("overlay")
    for panel in range(2):
        overlays.nth(panel).wait_for(state="visible")
    return page.locator(".grid > .q-card").all()


def picture(panel):
    return panel.get_by_label("picture with the regions found")


def test_two_models_answer_side_by_side_and_on_a_phone_below_each_other(page):
    panels = segment_example(page)
    left, right = (picture(panel).bounding_box() for panel in panels)
    assert left["y"] == right["y"] and left["x"] + left["width"] < right["x"]
    assert all(panel.locator("tbody tr").count() for panel in panels)
    for width in (375, 320):
        page.set_viewport_size({"width": width, "height": 740})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        above, below = (picture(panel).bounding_box() for panel in panels)
        assert above["x"] == below["x"] and above["y"] + above["height"] < below["y"]
        assert above["width"] > 0.8 * width


def test_the_pointer_names_regions_in_both_pictures_and_a_click_keeps_one(page):
    panels = segment_example(page)
    box = picture(panels[0]).bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    for panel in panels:
        name, score = re.fullmatch(
            r"(.+) · score (\d\.\d\d) · .+ of the picture",
            (caption := panel.get_by_text(" · score ")).inner_text(),
        ).groups()
        assert panel.locator("[role=img] svg text").text_content() == f"{name} {score}"
    page.mouse.down()
    page.mouse.up()
    row = panels[1].locator("tbody tr.selected")
    row.wait_for()
    assert name in row.inner_text() and score in row.inner_text()
    page.mouse.move(0, 0)
    panels[1].locator("[role=img] svg text").wait_for(state="detached")
    assert panels[1].locator("[role=img] svg path").count() == 2 and name in caption.inner_text()
    row.get_by_role("checkbox").click()  # given back
    panels[1].locator("[role=img] svg path").first.wait_for(state="detached")
    assert panels[0].locator("[role=img] svg path").count() == 2


def test_the_slider_sets_how_opaque_regions_are(page):
    segment_example(page)
    opacity = "getComputedStyle(document.querySelector('.overlay')).opacity"
    assert page.evaluate(opacity) == "0.6"
    page.locator(".q-slider [tabindex='0']").press("ArrowLeft")
    page.wait_for_function(f"{opacity} === '0.55'")


def test_the_files_of_both_models_come_as_a_zip(page):
    segment_example(page)
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download masks").click()
    assert waiting.value.suggested_filename == "example1.masks.zip"
    with zipfile.ZipFile(waiting.value.path()) as archive:
        names = set(archive.namelist())
    for kind in ("json", "labels.png", "overlay.png"):
        assert {f"model1/example1.{kind}", f"model2/example1.{kind}"} <= names


def test_a_dropped_picture_is_segmented_with_the_words_of_a_list(page, pixels, tmp_path):
    Image.fromarray(pixels).save(tmp_path / "mine.png")
    page.locator("input[type=file]").set_input_files(tmp_path / "mine.png")
    page.get_by_label("picture with the regions found").first.wait_for()
    page.get_by_label("Words from a list").click()
    page.get_by_role("option", name="training (2 classes)").click()
    words = page.get_by_label("Classes")
    page.wait_for_function("e => e.value === 'sky; car, taxi'", arg=words.element_handle())
    words.fill("meadow")
    words.press("Enter")
    page.locator("tbody tr", has_text="meadow").first.wait_for()
    # one class takes the whole picture
    assert "100.0%" in page.locator("tbody tr").first.inner_text()


def test_a_browser_that_was_busy_keeps_its_picture(page):
    segment_example(page)
    busy = [p for p in psutil.Process().children(recursive=True) if "chrom" in p.name()]
    for process in busy:
        process.suspend()
    time.sleep(15)
    for process in busy:
        process.resume()
    page.get_by_role("button", name="Segment", exact=True).click()
    page.wait_for_timeout(3000)  # what was lost would be by now
    assert page.get_by_alt_text("overlay").first.is_visible()


def test_mistakes_are_answered_with_a_sentence(page, tmp_path):
    alert = page.get_by_role("alert")
    page.get_by_role("button", name="Segment", exact=True).click()
    alert.filter(has_text="drop a picture first").wait_for()
    page.get_by_alt_text("example 2").first.click()
    # the example brings its own words with it, which replace what stands there
    page.get_by_label("picture with the regions found").first.wait_for()
    page.get_by_label("Classes").fill("sky; sky")
    page.get_by_role("button", name="Segment", exact=True).click()
    alert.filter(has_text="'sky' occurs twice").wait_for()
    (tmp_path / "notes.png").write_text("no picture")
    page.locator("input[type=file]").set_input_files(tmp_path / "notes.png")
    alert.filter(has_text="notes.png: not an image").wait_for()


def test_the_picture_of_the_documentation_is_taken_of_it(weights, tmp_path):
    program, picture = ROOT / "docs/demo_picture.py", tmp_path / "demo.png"
    variables = {name: value for name, value in os.environ.items() if "PYTEST" not in name}
    subprocess.run([sys.executable, program, weights, weights, picture], env=variables, check=True)
    assert Image.open(picture).width == 1180
