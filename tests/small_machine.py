"""Run `maftp doctor` on a machine of faults; started by test_doctor.py.

Usage: unshare --mount python small_machine.py FOLDER PARAMS ; FOLDER becomes a small full disk,
/dev/shm has the 64 MB of containers, and no compiler is on the search path.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from maftp.cli import main


def mount(folder: str, megabytes: int) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", folder]
    return subprocess.run(command, capture_output=True).returncode == 0


def run(folder: Path, params: str) -> None:
    if not (mount(str(folder), 1) and mount("/dev/shm", 64)):
        print("NO MOUNT")
        return
    (folder / "ballast").write_bytes(bytes(900_000))
    os.environ |= {"DETECTRON2_DATASETS": str(folder), "PATH": "", "MAFTP_OPS_CACHE": str(folder)}
    os.environ.pop("CXX", None)
    print("CODE", main(["doctor", "--params", params]))


if __name__ == "__main__":
    run(Path(sys.argv[1]), sys.argv[2])
