"""The digest of code changes with its meaning and nothing else; imports say what counts."""

from __future__ import annotations

import importlib
import sys

import pytest

from maftp.errors import MaftpError
from maftp.tracking import source


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package `toy`: losses imports weights and, excused, errors."""
    folder = tmp_path / "toy"
    folder.mkdir()
    files = {
        "__init__": "",
        "losses": "from toy import errors, weights\n\ndef area(w, h):\n    return w * h\n",
        "weights": "def read():\n    return open('table.csv')\n",
        "errors": "from toy import words\n",
        "words": "",
        "other": "import toy.losses\n",
    }
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    (folder / "table.csv").write_text("1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(source, "PACKAGE", folder)
    monkeypatch.setattr(source, "NAME", "toy")
    importlib.invalidate_caches()
    yield folder
    for name in [name for name in sys.modules if name.split(".")[0] == "toy"]:
        del sys.modules[name]
    source._graph.cache_clear()


def digest():
    source._graph.cache_clear()
    return source.code_digest("losses")


def test_comments_docstrings_and_layout_do_not_count(package):
    before = digest()
    text = (package / "losses.py").read_text()
    (package / "losses.py").write_text(f'"""Areas."""\n# px\n{text.replace("w, h", "w,   h")}')
    assert digest() == before


@pytest.mark.parametrize(
    ("file", "text", "counts"),
    [
        ("losses.py", "from toy import errors, weights\nWEIGHT = 2\n", True),
        ("weights.py", "def read():\n    return 2, open('table.csv')\n", True),
        ("table.csv", "2\n", True),
        ("errors.py", "from toy import words\nA = 1\n", False),
        ("words.py", "A = 1\n", False),
        ("other.py", "import toy.losses\nA = 1\n", False),
    ],
)
def test_what_a_module_imports_and_names_counts(package, file, text, counts):
    before = digest()
    (package / file).write_text(text)
    assert (digest() != before) == counts


def test_a_package_stands_for_its_modules():
    files = source.code_files("losses")
    assert source.PACKAGE / "losses" / "matcher.py" in files


def test_edited_code_is_refused(package):
    mark = source.code_mark("losses", "weights")
    source.check_code(mark)
    source._graph.cache_clear()
    (package / "errors.py").write_text("A = 2\n")
    source.check_code(mark)
    (package / "table.csv").write_text("3\n")
    with pytest.raises(MaftpError, match=r"code of losses\+weights was edited"):
        source.check_code(mark)
    with pytest.raises(MaftpError, match=r"code of losses\+gone was edited"):
        source.check_code("losses+gone:0123")


def test_an_unknown_place_is_refused():
    with pytest.raises(ValueError, match="nowhere"):
        source.code_digest("nowhere")


def test_every_excuse_names_something():
    for place in source.EXCUSED:
        path = source.PACKAGE.joinpath(*place.split("."))
        found = path.is_dir() or path.with_suffix(".py").exists()
        assert found or (source.PACKAGE / "data" / place.removeprefix("data.")).exists(), place


def test_training_watches_what_reads_images_and_names():
    names = {
        file.relative_to(source.PACKAGE).as_posix() for file in source.code_files("training.worker")
    }
    assert {"data/images.py", "data/records.py", "data/vocabulary.py", "data/mapper.py"} <= names
    assert {"modeling/maft_plus.py", "losses/criterion.py", "ops/csrc/cpu.cpp"} <= names
    assert not any(name.startswith(("tracking/", "training/slurm")) for name in names)


def test_published_numbers_are_watched():
    assert source.PACKAGE / "report" / "published.csv" in source.code_files("report.tables")
