"""Whether a table's conclusions stand where something that should not matter was changed.

    python benchmarks/conclusions.py "one thread=results/miniature" "two=elsewhere/miniature"

Each folder is an experiment's, with the table of differences that the pipeline wrote there.
"""

from __future__ import annotations

from pathlib import Path

import measure
import pandas as pd

from maftp.report.differences import interval_text, read_differences
from maftp.results import DIFFERENCES

NOTE = (
    "Difference of each variant from {baseline} in points, with its 95 % interval over {covers}; "
    "bold where it excludes zero. `same` says whether it does so on the same side everywhere."
)


def main() -> None:
    """Lay the differences of several folders side by side."""
    parser = measure.parser(__doc__ or "")
    parser.add_argument("folders", nargs="+", metavar="NAME=FOLDER", type=_named)
    options = parser.parse_args()
    tables = {name: read_differences(folder / DIFFERENCES) for name, folder in options.folders}
    rows = conclusions(tables)
    first = next(iter(tables.values())).iloc[0]
    note = NOTE.format(baseline=first["baseline"], covers=first["covers"])
    measure.publish("conclusions", rows, options=options, note=note)


def conclusions(tables: dict[str, pd.DataFrame]) -> list[measure.Row]:
    """Return a row per variant and score: the difference in each table, and whether they agree."""
    keyed = {name: table.set_index(["variant", "score"]) for name, table in tables.items()}
    rows = []
    for variant, score in next(iter(keyed.values())).index:
        row: measure.Row = {"variant": variant, "score": score}
        sides = set()
        for name, table in keyed.items():
            found = table.loc[(variant, score)]
            mean, low, high = found["difference"], found["low"], found["high"]
            row[name] = interval_text(mean, low, high)
            sides.add(int(low > 0) - int(high < 0))
        rows.append(row | {"same": "yes" if len(sides) == 1 else "no"})
    return rows


def _named(text: str) -> tuple[str, Path]:
    name, _, folder = text.rpartition("=")
    return name or folder, Path(folder)


if __name__ == "__main__":
    main()
