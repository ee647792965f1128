from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maftp.apps.pictures import (
    CutShortError,
    count_pictures,
    decode_picture,
    find_sources,
    read_picture,
    read_pictures,
)
from maftp.errors import DataError

CASES = Path(__file__).resolve().parents[1] / "data" / "cases" / "pictures"


def test_a_folder_gives_all_pictures_below_under_different_names(folder):
    sources = find_sources([str(folder)])
    assert [source.name for source in sources] == ["one", "clip", "one_2"]
    assert [source.is_video for source in sources] == [False, True, False]
    assert not any(source.chosen for source in sources)


def test_files_and_patterns(folder):
    sources = find_sources([str(folder / "one.png"), str(folder / "**" / "*.jpg")])
    assert [(source.name, source.chosen) for source in sources] == [("one", True), ("one_2", False)]


def test_a_file_named_twice_is_read_once(folder):
    sources = find_sources([str(folder), str(folder / "one.png")])
    assert [source.chosen for source in sources if source.path.name == "one.png"] == [True]


def test_every_second_frame_of_a_video(folder):
    (source,) = find_sources([str(folder / "clip.mp4")])
    assert count_pictures([source], every=2) == 3
    frames = list(read_pictures(source, every=2))
    assert [frame.name for frame in frames] == ["clip/000000", "clip/000002", "clip/000004"]
    assert [frame.frame for frame in frames] == [0, 2, 4]
    # grey 0, 80, 160, up to the codec's rounding
    assert [round(float(frame.pixels.mean()) / 80) for frame in frames] == [0, 1, 2]
    assert frames[0].pixels.shape == (48, 64, 3)


def test_rotation_transparency_and_sixteen_bits(tmp_path):
    photograph = Image.new("RGB", (20, 10), "red")
    exif = photograph.getexif()
    exif[0x0112] = 6  # turned by a quarter
    photograph.save(tmp_path / "turned.jpg", exif=exif)
    assert read_picture(tmp_path / "turned.jpg").shape == (20, 10, 3)
    Image.new("RGBA", (2, 2), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (read_picture(tmp_path / "clear.png") == 255).all()
    Image.fromarray(np.full((2, 2), 0x4000, np.uint16)).save(tmp_path / "deep.png")
    assert (read_picture(tmp_path / "deep.png") == 0x40).all()


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("notes.txt", b"words", "not an image"),
        ("cut.png", None, "damaged or cut short"),
        ("fake.mp4", b"words", "not a video"),
    ],
)
def test_what_is_no_picture_ends_in_a_sentence(folder, name, content, sentence):
    path = folder / name
    path.write_bytes(content or (folder / "one.png").read_bytes()[:400])
    (source,) = find_sources([str(path)])
    with pytest.raises(DataError, match=sentence) as caught:
        list(read_pictures(source, every=1))
    assert name in str(caught.value)


def test_missing_and_empty(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no such picture"):
        find_sources([str(tmp_path / "none.png")])
    with pytest.raises(DataError, match="no picture and no video"):
        find_sources([str(tmp_path / "empty")])


def test_a_video_cut_short_gives_its_frames_and_then_says_so():
    (source,) = find_sources([str(CASES / "cut.avi")])
    frames = []
    with pytest.raises(CutShortError, match=r"cut\.avi: 5 of 8 frames could be read"):
        for frame in read_pictures(source, every=1):
            frames.append(frame.frame)
    assert frames == [0, 1, 2, 3, 4]


def test_an_animation_says_that_only_its_first_image_is_taken(caplog):
    assert read_picture(CASES / "anim.gif").shape == (48, 64, 3)
    assert "anim.gif: holds 4 images; only the first is taken" in caplog.text


@pytest.mark.parametrize("ending", ["avif", "jfif", "jpe", "jp2", "pgm", "apng", "tga", "qoi"])
def test_a_folder_gives_what_can_be_opened_by_name(ending, tmp_path, pixels):
    form = {"jfif": "JPEG", "jpe": "JPEG", "jp2": "JPEG2000", "pgm": "PPM", "apng": "PNG"}
    mode = "L" if ending == "pgm" else "RGB"
    path = tmp_path / f"a.{ending}"
    Image.fromarray(pixels).convert(mode).save(path, format=form.get(ending, ending.upper()))
    (source,) = find_sources([str(tmp_path)])
    assert np.array_equal(read_picture(source.path), read_picture(path))


def test_pictures_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "photo.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(20))
    (tmp_path / "renamed.jpg").write_bytes(b"\0\0\0\x18ftypheic" + bytes(20))
    assert len(find_sources([str(tmp_path)])) == 2
    for name in ("photo.HEIC", "renamed.jpg"):
        with pytest.raises(DataError, match=rf"{name}: HEIC pictures cannot be read here"):
            read_picture(tmp_path / name)


@pytest.mark.parametrize("text", ["n" * 300, "a\0b", "n" * 300 + "/*.png", "/dev/null", "-"])
def test_paths_that_cannot_be(text):
    with pytest.raises(DataError, match="mend the path"):
        find_sources([text])


def test_one_limit_of_pixels_before_decoding():
    with pytest.raises(DataError, match=r"thin.*: 1280 x 2 pixels, at most 0 million are taken"):
        decode_picture(CASES / "thin_2x1280.png", name="thin", max_pixels=2000)


def test_too_many_pixels(tmp_path, monkeypatch):
    Image.new("L", (40, 40)).save(tmp_path / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)
    with pytest.raises(DataError, match="million pixels"):
        read_picture(tmp_path / "huge.png")
