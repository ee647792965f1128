"""What the installed libraries make of a few pictures, as digests.

JPEG decoders and resize kernels differ between versions by single grey values, and scores with
them. Equal digests mean equal inputs of the network; a version number does not tell.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from maftp.data.images import PICTURE, opened, rgb_pixels
from maftp.data.mapper import resize_image, resize_label

_FILE = "reference_pictures.json"


def picture_digests() -> dict[str, str]:
    """Return a digest of every reference picture as it is decoded, resized or coloured here."""
    drawn = drawn_picture(97, 131)
    labels = drawn[..., 0] % 7
    made = {f"decode {name}": decode(data) for name, data in reference_files().items()}
    made |= {
        "resize image, smaller": resize_image(drawn, 48, 65),
        "resize image, larger": resize_image(drawn, 150, 203),
        # Pillow 13 takes the two passes in another order where an image is far higher than wide
        "resize image, upright": resize_image(drawn_picture(278, 100), 222, 80),
        "resize labels": resize_label(labels, 61, 80).numpy(),
        "convert colours": cv2.cvtColor(drawn, cv2.COLOR_RGB2HSV),
    }
    return {name: _digest(pixels) for name, pixels in made.items()}


def expected_digests() -> dict[str, str]:
    """Return those of the pinned versions."""
    return _content()["digests"]


def differing(found: Mapping[str, str], expected: Mapping[str, str]) -> list[str]:
    """Return the names of the digests that are not as expected."""
    return [name for name, digest in expected.items() if found.get(name) != digest]


def reference_files() -> dict[str, bytes]:
    """Return the files that are decoded, by a name that says what is special."""
    return {name: base64.b64decode(text) for name, text in _content()["files"].items()}


def decode(data: bytes) -> NDArray[np.uint8]:
    """Decode a picture as those of a data set."""
    with opened(io.BytesIO(data), PICTURE, name="a reference picture") as image:
        return rgb_pixels(image, name="a reference picture", oriented=True)


def drawn_picture(height: int, width: int) -> NDArray[np.uint8]:
    """Draw edges over a slope, (height, width, 3), from whole numbers alone."""
    y, x = np.indices((height, width))
    red = (3 * y + x) % 256
    green = np.where((x // 8 + y // 5) % 2, 220, 40)
    blue = (x * x + 2 * y * y) // 64 % 256
    return np.stack([red, green, blue], axis=-1).astype(np.uint8)


def _digest(pixels: NDArray[np.integer]) -> str:
    content = np.ascontiguousarray(pixels.astype(np.int64))
    return hashlib.sha256(str(pixels.shape).encode() + content.tobytes()).hexdigest()[:12]


@cache
def _content() -> dict[str, Any]:
    return json.loads(resources.files("maftp.data").joinpath(_FILE).read_text())
