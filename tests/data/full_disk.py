"""Run `maftp` on a small file system of its own that becomes full; started by test_faults.py.

Usage: unshare --mount python full_disk.py FOLDER PARAMS... ; FOLDER becomes a tmpfs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from maftp.cli import main

MB = 1 << 20


def free(folder: Path) -> int:
    state = os.statvfs(folder)
    return state.f_bavail * state.f_frsize


def fill(folder: Path, left: int) -> Path:
    """Write a file so that only `left` bytes stay free."""
    ballast = folder / "ballast"
    with open(ballast, "wb") as file:
        while free(folder) > left:
            file.write(bytes(min(MB, max(free(folder) - left, 4096))))
            file.flush()
    return ballast


def step(*arguments: str, ballast_leaves: int | None, folder: Path, params: list[str]) -> None:
    """Run a command on a full disk, print what it said, then with room again."""
    command = [*arguments, "--params", *params]
    if ballast_leaves is not None:
        ballast = fill(folder, ballast_leaves)
        print("FULL", arguments[0], main(command), flush=True)
        ballast.unlink()
    print("ROOM", arguments[0], main(command), flush=True)


def run(folder: Path, params: list[str]) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=160m", "none", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        print("NO MOUNT")
        return
    common = {"folder": folder, "params": params}
    step("download", "pascal_context", ballast_leaves=2 * MB, **common)
    # 66 MB pass the check before unpacking; the archive of 0.1 MB holds 90 MB
    step("unpack", "pascal_context", ballast_leaves=66 * MB, **common)
    for source in ("voc2010", "pascal_in_detail", "vocabulary_pascal_ctx_459"):
        step("download", source, ballast_leaves=None, **common)
        step("unpack", source, ballast_leaves=None, **common)
    (folder / "VOCdevkit/VOC2010/trainval/zeros.bin").unlink()
    step("convert", "pascal_ctx_459", "--jobs", "1", ballast_leaves=0, **common)
    for file in sorted(folder.rglob("*")):
        if file.is_file() and not file.name.endswith(".downloaded.json"):  # holds a time
            print("FILE", file.relative_to(folder), file.read_bytes().hex()[:4000])


if __name__ == "__main__":
    run(Path(sys.argv[1]), sys.argv[2:])
