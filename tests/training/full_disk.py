"""Train on a small file system of its own that becomes full; started by test_ray_faults.py.

Usage: unshare --mount python full_disk.py FOLDER ; FOLDER becomes a tmpfs. Prints the weights'
digest; exits with 77 where it may not mount.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

DRIVER = Path(__file__).with_name("tiny_run.py")


def fill(folder: Path) -> Path:
    """Write a file that takes all there is."""
    ballast = folder / "ballast"
    with open(ballast, "wb", buffering=0) as file:
        while free := os.statvfs(folder).f_bavail * 4096:
            file.write(bytes(min(free, 1 << 20)))
    return ballast


def run(folder: Path) -> int:
    mount = ["mount", "-t", "tmpfs", "-o", "size=30m", "none", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        return 77
    out = folder / "run"
    command = [sys.executable, str(DRIVER), str(out), "--seconds", "0.5"]
    first = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 1800
    while not (out / "checkpoints/step-00000004").exists() and time.monotonic() < end:
        time.sleep(0.1)
    ballast = fill(folder)
    _, log = first.communicate()
    print("FULL", first.returncode, log.splitlines()[-1])
    print("HELD", *sorted(path.name for path in (out / "checkpoints").glob("*step-*")))
    ballast.unlink()
    subprocess.run(command[:-2], check=True, stderr=subprocess.DEVNULL)
    print("ROOM", hashlib.sha256((out / "weights.safetensors").read_bytes()).hexdigest())
    return 0


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1])))
