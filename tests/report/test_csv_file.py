"""Cells that a spreadsheet would compute are text; numbers stay numbers."""

import pandas as pd

from maftp.report.csv_file import write_csv


def test_formulas_are_quoted_and_numbers_are_not(tmp_path):
    cells = ["=1+1", "+x", "-x", "@SUM(A1)", "\tx", "-1.5", "+2", "plain", "a=b", "R&D <b>"]
    write_csv(pd.DataFrame({"=name": cells, "number": -1.0}), tmp_path / "t.csv")
    lines = (tmp_path / "t.csv").read_text().splitlines()
    assert lines[0] == "'=name,number"
    found = [line.rpartition(",")[0] for line in lines[1:]]
    assert found[:5] == ["'=1+1", "'+x", "'-x", "'@SUM(A1)", "'\tx"]
    assert found[5:] == cells[5:]
    assert lines[1].endswith(",-1.0000")
