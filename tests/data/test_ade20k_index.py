import collections
import pickle

import numpy as np
import pytest

from maftp.data.ade20k_index import read_index_files
from maftp.errors import DataError

FILES = ["ADE_train_00000001.jpg", "ADE_val_00000001.jpg"]


def index(**more):
    """An index of the published form: lists of text, and numpy matrices."""
    return {
        "filename": FILES,
        "folder": ["ADE20K_2021_17_01/images/ADE/training/urban/street"] * 2,
        "objectIsPart": np.zeros((3, 2)),
        "typeset": np.array(["training", "validation"], dtype=object),
        "wordnet_found": np.float64(3.0),
        **more,
    }


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol(protocol, tmp_path):
    path = tmp_path / "index_ade20k.pkl"
    content = index(extra=collections.OrderedDict(a={1, 2}, b=b"bytes", c=(1 + 2j, None, 2.5)))
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    assert read_index_files(path) == FILES


def test_names_of_older_numpy(tmp_path):
    path = tmp_path / "index_ade20k.pkl"
    data = pickle.dumps(index(), protocol=2)
    assert b"numpy._core.multiarray" in data
    path.write_bytes(data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert read_index_files(path) == FILES


class Evil:
    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize("place", ["filename", "folder", "array"])
def test_nothing_in_it_is_run(place, protocol, tmp_path):
    marker = tmp_path / "ran"
    evil = Evil(open, str(marker), "w")
    content = index(array=np.array([evil], dtype=object)) if place == "array" else index()
    if place != "array":
        content[place] = evil
    path = tmp_path / "index_ade20k.pkl"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    with pytest.raises(DataError, match=r"index_ade20k\.pkl: .*which is not data.*unpack"):
        read_index_files(path)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["getattr", "eval", "__import__"])
def test_builtins_that_lead_further_are_refused(name, tmp_path):
    path = tmp_path / "index_ade20k.pkl"
    path.write_bytes(f"cbuiltins\n{name}\n.".encode())
    with pytest.raises(DataError, match=f"builtins.{name}"):
        read_index_files(path)


def test_damaged_or_no_index(tmp_path):
    path = tmp_path / "index_ade20k.pkl"
    whole = pickle.dumps(index())
    for data in (whole[:40], b"", pickle.dumps([1, 2]), pickle.dumps(index(filename=[]))):
        path.write_bytes(data)
        with pytest.raises(DataError, match="unpack its archive again"):
            read_index_files(path)
    with pytest.raises(DataError, match=r"none\.pkl: no such index"):
        read_index_files(tmp_path / "none.pkl")
