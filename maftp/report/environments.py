"""Whether the rows of a table were made with the same libraries, and on the same kind of device.

Versions alone do not tell: what counts is also what they made of reference pictures, whose digests
stand in manifests and evaluations (`maftp.data.fingerprint`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from maftp.results import Evaluation, Run

COLUMN = "environment"
_NOTE = (
    "**Not made in one environment**: scores may differ for that reason alone (`maftp doctor`).\n"
)


def differences(rows: Sequence[tuple[Run, Sequence[Evaluation]]]) -> list[str]:
    """Return for each row the facts in which rows differ; empty where all agree.

    Args:
        rows: runs, and their evaluations that count.
    """
    facts = [_facts(run, evaluations) for run, evaluations in rows]
    keys = dict.fromkeys(key for row in facts for key in row)
    odd = [key for key in keys if len({row[key] for row in facts if key in row}) > 1]
    return ["; ".join(f"{key} {row[key]}" for key in odd if key in row) for row in facts]


def letters(rows: pd.DataFrame) -> pd.Series:
    """Return a letter for each row's environment; empty where all are the same."""
    texts = _texts(rows)
    known = list(dict.fromkeys(texts))
    if len(known) < 2:
        return texts.map(lambda text: "")
    return texts.map(lambda text: chr(ord("A") + known.index(text)))


def explanation(rows: pd.DataFrame) -> list[str]:
    """Return the lines of Markdown that say what each letter stands for; none where all agree."""
    marks = letters(rows)
    if (marks == "").all():
        return []
    texts = dict(zip(marks, _texts(rows), strict=True))
    lines = [f"- {mark}: {text or 'not known'}" for mark, text in sorted(texts.items())]
    return [_NOTE, "\n".join(lines) + "\n"]


def _texts(rows: pd.DataFrame) -> pd.Series:
    """Return what rows say; nothing in tables that were made before there was a column."""
    return rows.get(COLUMN, pd.Series("", index=rows.index, dtype=object)).fillna("")


def _facts(run: Run, evaluations: Sequence[Evaluation]) -> dict[str, str]:
    found: dict[str, set[str]] = {}
    made = [("evaluated", one.content.get("provenance", {}), "versions") for one in evaluations]
    if run.trained:
        made.append(("trained", run.manifest, "packages"))
    for verb, origin, versions in made:
        for key, value in _libraries(origin, versions).items():
            found.setdefault(f"{verb} {key}", set()).add(str(value))
    return {key: " and ".join(sorted(values)) for key, values in found.items()}


def _libraries(origin: Mapping[str, Any], versions: str) -> dict[str, Any]:
    facts = {f"with {name}": version for name, version in origin.get(versions, {}).items()}
    facts |= {f"({name})": digest for name, digest in origin.get("pictures", {}).items()}
    device = origin.get("device")
    return facts | ({"on": device.partition(":")[0]} if device else {})
