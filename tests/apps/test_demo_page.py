"""The page in a real browser, without network."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from PIL import Image

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
PATIENCE = 600_000
"""Milliseconds; the machine may be busy."""


@pytest.fixture(scope="module")
def address(weights):
    """Serve the page with an untrained model until the tests are done."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["--weights", str(weights), "--port", str(port), "--no-browser"]
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


@pytest.fixture
def page(address):
    """The page in headless chromium; requests to other machines are noted and refused."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
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
        browser.close()


def test_an_example_and_a_click_give_an_overlay_and_a_table(page, tmp_path):
    page.get_by_alt_text("example 1").first.click()
    page.get_by_role("button", name="Segment", exact=True).click()
    overlay = page.locator('.q-img:has(img[alt="overlay"]) img, img[alt="overlay"]').first
    overlay.wait_for(state="visible")
    assert overlay.get_attribute("src").startswith("data:image/png")
    assert page.locator("tbody tr").count() >= 1
    page.screenshot(path=tmp_path / "page.png", full_page=True)


def test_a_dropped_picture_is_segmented_with_typed_words(page, pixels, tmp_path):
    Image.fromarray(pixels).save(tmp_path / "mine.png")
    page.locator("input[type=file]").set_input_files(tmp_path / "mine.png")
    page.locator('img[alt="picture"]').first.wait_for(state="visible")
    page.get_by_label("Classes").fill("meadow")
    page.get_by_label("Classes").press("Enter")
    page.locator("tbody tr", has_text="meadow").wait_for(state="visible")
    # one class takes the whole picture
    assert "100.0%" in page.locator("tbody tr").inner_text()


def test_mistakes_are_answered_with_a_sentence(page, tmp_path):
    alert = page.get_by_role("alert")
    page.get_by_role("button", name="Segment", exact=True).click()
    alert.filter(has_text="drop a picture first").wait_for()
    page.get_by_alt_text("example 2").first.click()
    # the example brings its own words with it, which replace what stands there
    page.locator('img[alt="picture"]').first.wait_for(state="visible")
    page.get_by_label("Classes").fill("sky; sky")
    page.get_by_role("button", name="Segment", exact=True).click()
    alert.filter(has_text="'sky' occurs twice").wait_for()
    (tmp_path / "notes.png").write_text("no picture")
    page.locator("input[type=file]").set_input_files(tmp_path / "notes.png")
    alert.filter(has_text="notes.png: not an image").wait_for()
