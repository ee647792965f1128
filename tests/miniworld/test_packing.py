"""Archives with nothing in them but their content."""

import io
import tarfile

import numpy as np
from PIL import Image

from maftp.miniworld.packing import jpeg, png, tar_bytes, tar_gz_bytes, zip_bytes


def test_order_and_time_do_not_matter():
    files = {"b/x.txt": b"1", "a.png": b"2"}
    for pack in (zip_bytes, tar_bytes, tar_gz_bytes):
        assert pack(files) == pack(dict(reversed(files.items())))
    with tarfile.open(fileobj=io.BytesIO(tar_gz_bytes(files))) as archive:
        assert archive.getnames() == ["a.png", "b/x.txt"]
        assert archive.extractfile("a.png").read() == b"2"


def test_images():
    values = np.arange(12, dtype=np.uint8).reshape(3, 4)
    palette = np.stack([np.arange(256)] * 3, axis=1).astype(np.uint8)
    image = Image.open(io.BytesIO(png(values, palette=palette)))
    assert image.mode == "P"
    np.testing.assert_array_equal(np.asarray(image), values)
    smooth = np.full((16, 16, 3), 90, np.uint8)
    assert abs(np.asarray(Image.open(io.BytesIO(jpeg(smooth)))).astype(int) - 90).max() <= 2
