"""Ray on one node of an allocation, until standard input ends; `maftp.training.allocation` runs it.

A signal that asks the job to end must not end Ray before the workers have written a checkpoint:
Ray's processes are started with SIGTERM blocked, and this one only says that it came.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import subprocess
import sys

from maftp.training.allocation import SIGNALLED


def main(arguments: list[str] | None = None) -> int:
    """Run Ray here; return its exit code, or 0 when it was taken down because input ended."""
    options = _parser().parse_args(arguments)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # Ray's processes inherit this
    ray = subprocess.Popen(_command(options), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    signal.signal(signal.SIGTERM, lambda number, frame: print(SIGNALLED, flush=True))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    try:
        while ray.poll() is None and not _input_ended():
            continue
        return ray.returncode or 0
    finally:
        ray.kill()  # the kernel ends what it has started with it
        ray.wait()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m maftp.training.ray_node")
    parser.add_argument("--head", required=True, help="name of the node Ray's head runs on")
    parser.add_argument("--address", required=True, help="IP address and port of the head")
    parser.add_argument("--cpus", type=int, required=True)
    parser.add_argument("--gpus", type=int, required=True)
    return parser


def _command(options: argparse.Namespace) -> list[str]:
    host, port = options.address.rsplit(":", 1)
    if os.environ.get("SLURMD_NODENAME") == options.head:
        place = ["--head", f"--port={port}", f"--node-ip-address={host}"]
        place += ["--include-dashboard=false"]
    else:
        place = [f"--address={options.address}"]
        if host == "127.0.0.1":  # all nodes are virtual ones of this machine
            place.append(f"--node-ip-address={host}")
    return [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *place,
        f"--num-cpus={options.cpus}", f"--num-gpus={options.gpus}",
        "--object-store-memory=80000000", "--disable-usage-stats",
        "--min-worker-port=0", "--max-worker-port=0",
    ]  # fmt: skip


def _input_ended() -> bool:
    """Wait up to half a second for standard input; True when it has ended."""
    ready, _, _ = select.select([sys.stdin], [], [], 0.5)
    return bool(ready) and not os.read(sys.stdin.fileno(), 1024)


if __name__ == "__main__":
    sys.exit(main())
