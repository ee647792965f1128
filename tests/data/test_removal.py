"""Downloaded archives go once their data sets are converted; all else stays."""

import os
import shutil

import pytest

from maftp.data import download
from maftp.data.catalog import load_catalog
from maftp.data.convert.run import convert
from maftp.data.download import fetch, is_downloaded
from maftp.data.layout import archives_dir
from maftp.data.removal import remove_archives
from maftp.data.status import source_status
from maftp.data.unpack import unpack_source
from maftp.data.verify import verify_archives, verify_dataset
from tests.data.conftest import on_the_web

ADE = ("ade20k_150", "ade20k_panoptic")
ZIP, TAR = "ADEChallengeData2016.zip", "annotations_instance.tar"


@pytest.fixture
def world(overlay, tmp_path):
    """Return catalog and root with both archives of ADE20K downloaded and unpacked."""
    with on_the_web(overlay):
        catalog, root = load_catalog(overlay), tmp_path / "root"
        for name in catalog.datasets["ade20k_panoptic"].sources:
            fetch(catalog.sources[name], archives_dir(root))
            unpack_source(name, catalog, root)
    return catalog, root


def archives(root):
    return {path.name for path in archives_dir(root).iterdir() if path.suffix in (".zip", ".tar")}


def test_they_go_after_the_last_conversion(world):
    catalog, root = world
    sizes = {name: (archives_dir(root) / name).stat().st_size for name in (ZIP, TAR)}
    assert remove_archives(ADE, catalog, root) == {}
    convert("ade20k_150", catalog, root, workers=1)
    assert remove_archives(ADE, catalog, root) == {}
    convert("ade20k_panoptic", catalog, root, workers=1)
    label = next((root / "ade/ADEChallengeData2016/annotations_detectron2").rglob("*.png"))
    content = label.read_bytes()
    label.unlink()
    assert remove_archives(ADE, catalog, root).keys() == {TAR}  # ade20k_150 lacks a file
    label.write_bytes(content)
    assert remove_archives(ADE, catalog, root) == {ZIP: sizes[ZIP]}
    assert archives(root) == set() and remove_archives(ADE, catalog, root) == {}
    assert source_status("ade20k_challenge", catalog, root).state == "archive removed"
    for name in ADE:
        assert verify_archives(name, catalog, root) == []
        assert verify_dataset(name, catalog, root, workers=1) == []


@pytest.mark.parametrize("how", ["by hand", "--from", "own mirror", "over the download"])
def test_what_the_user_brought_stays(how, world, tmp_path):
    catalog, root = world
    archive, mine = archives_dir(root) / ZIP, tmp_path / "mine" / ZIP
    source = catalog.sources["ade20k_challenge"]
    mine.parent.mkdir()
    shutil.copy(archive, mine)
    os.utime(mine, ns=(10**18, 10**18))
    if how == "over the download":
        shutil.copy2(mine, archive)
    else:
        archive.unlink()
        download.downloaded_path(archive).unlink()
    if how == "by hand":
        shutil.copy(mine, archive)
    elif how == "--from":
        fetch(source, archives_dir(root), local=mine)
    elif how == "own mirror":
        fetch(source.model_copy(update={"url": mine.as_uri()}), archives_dir(root))
    for name in ADE:
        convert(name, catalog, root, workers=1)
    mine.unlink()  # no link to it keeps the archive
    assert remove_archives(ADE, catalog, root).keys() == {TAR}
    assert archive.exists() and not is_downloaded(archive)


def test_a_link_that_frees_nothing_stays(world, tmp_path):
    catalog, root = world
    for name in ADE:
        convert(name, catalog, root, workers=1)
    os.link(archives_dir(root) / ZIP, tmp_path / "kept.zip")
    assert remove_archives(ADE, catalog, root).keys() == {TAR}
    assert archives(root) == {ZIP}
