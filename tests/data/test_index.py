import pytest

from maftp.data.index import ImageRow, read_index, write_index
from maftp.errors import DataError

ROWS = [ImageRow("a", 4, 3, True, "12ab"), ImageRow("b", 3, 4, False, "")]


def test_rows_come_back(tmp_path):
    path = tmp_path / "table.csv"
    write_index(path, ROWS)
    assert path.read_bytes() == b"stem,width,height,trainable,sha256\na,4,3,1,12ab\nb,3,4,0,\n"
    assert read_index(path) == ROWS


@pytest.mark.parametrize(
    "text", ["", "stem,width\n", "stem,width\na,x\n", "stem,width,height\na\n"]
)
def test_damaged_tables(text, tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(text)
    if text in ("", "stem,width\n"):
        assert read_index(path) == []
    else:
        with pytest.raises(DataError, match=r"table\.csv: not a table of images"):
            read_index(path)


def test_a_missing_table(tmp_path):
    with pytest.raises(DataError, match=r"none\.csv: not a table"):
        read_index(tmp_path / "none.csv")
