"""Take docs/demo.png from the page of `maftp demo` with two models, in headless Chromium.

    python docs/demo_picture.py [results/miniature/maftp/seed0/weights.safetensors ...fcclip...] \
      [docs/demo.png]

Needs Debian's `chromium`, which is not part of the environment, and its package `playwright`.
"""  # noqa: D208

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from mlflow_pictures import browsing, free_port, wait_for
from PIL import Image

WEIGHTS = [f"results/miniature/{name}/seed0/weights.safetensors" for name in ("maftp", "fcclip")]


def main(weights: Sequence[str], picture: Path) -> None:
    """Serve two models, segment an example, keep a region and point at another."""
    program = Path(sys.executable).with_name("maftp")
    port = str(free_port())
    address = f"http://127.0.0.1:{port}/"
    command = [program, "demo", "--weights", weights[0], "--beside", weights[1]]
    with subprocess.Popen([*command, "--port", port, "--no-browser"]) as server:
        try:
            wait_for(address, server)
            _take(address, picture)
        finally:
            server.terminate()


def _take(address: str, path: Path) -> None:
    with browsing() as browser:
        page = browser.new_page(viewport={"width": 1180, "height": 900})
        page.goto(address)
        page.get_by_alt_text("example 1").first.click()
        page.get_by_role("button", name="Segment", exact=True).click()
        page.get_by_alt_text("overlay").nth(1).wait_for(state="visible")
        box = page.get_by_label("picture with the regions found").first.bounding_box()
        page.mouse.click(box["x"] + 0.62 * box["width"], box["y"] + 0.72 * box["height"])
        page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 0.32 * box["height"])
        page.wait_for_timeout(1000)
        taken = Image.open(io.BytesIO(page.screenshot(full_page=True)))
        taken.convert("RGB").quantize(256).save(path, optimize=True)


if __name__ == "__main__":
    given = sys.argv[1:]
    picture = Path(given[2]) if len(given) > 2 else Path(__file__).with_name("demo.png")
    main(given[:2] or WEIGHTS, picture)
