"""Check and measure the product on a GPU; `make gpu` runs this after the tests that need one.

    python benchmarks/gpu/check.py [PART ...] [--minutes 8] [--out DIR]
    python benchmarks/gpu/check.py --device cpu --tiny       # a rehearsal anywhere

Every number is written as soon as it is there: what is cut off leaves what it has measured.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]

import measure  # noqa: E402  # their folders had to be found first
import torch  # noqa: E402
import watch  # noqa: E402
from parts import PARTS, Row  # noqa: E402
from setting import Setting  # noqa: E402

NOTE = (
    "MAFT+ at {size[0]} x {size[1]} on {device}, random weights; `ms` is wall clock of a call with "
    "the host's part, `host waits` counts how often the host waits for the GPU in a call."
)


def main(arguments: list[str] | None = None) -> int:
    """Run the parts that are asked for; return how many of their tasks failed."""
    options = _options(arguments)
    setting = Setting(torch.device(options.device), options.tiny)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("There is no GPU here; rehearse with --device cpu --tiny.", file=sys.stderr)
        return 1
    deadline = time.monotonic() + 60 * options.minutes
    rows: list[Row] = []
    note = NOTE.format(size=setting.size, device=options.device)
    for name in options.parts:
        for row in _results(name, setting, deadline, options.only):
            rows.append(row)
            print(row, flush=True)
            measure.publish("gpu", rows, options=options, note=note, quiet=True)
    failed = [row for row in rows if "error" in row]
    for row in failed:
        print(f"{row['part']}, {row['what']}: {row['error']}", file=sys.stderr)
    return min(len(failed), 99)


def _results(name: str, setting: Setting, deadline: float, only: str) -> Iterator[Row]:
    """Yield the result of every task of a part whose label holds `only`."""
    for label, task in PARTS[name](setting):
        if only not in label:
            continue
        row = _done(task) if time.monotonic() < deadline else {"left out": "no time"}
        yield {"part": name, "what": label, **row}


def _done(task: Any) -> Row:
    """Do a task; a failure is a result, and the others go on."""
    gc.collect()
    watch.forget_peak()
    start = time.monotonic()
    try:
        row = task()
    except Exception as error:  # whatever it is, it belongs into the results
        row = {"error": f"{type(error).__name__}: {error}"[:500]}
    return {**row, "took, s": round(time.monotonic() - start, 1)}


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = measure.parser(__doc__ or "")
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="at a size that any machine bears")
    parser.add_argument("--only", default="", metavar="TEXT", help="tasks with this in their label")
    parser.add_argument("--minutes", type=float, default=8, help="time for all parts (8)")
    options = parser.parse_args(arguments)
    options.parts = options.parts or list(PARTS)
    if unknown := sorted(set(options.parts) - set(PARTS)):
        parser.error(f"no part {unknown[0]}; choose from {', '.join(PARTS)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
