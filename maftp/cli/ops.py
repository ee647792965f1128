"""`maftp ops ...`: the operators' backends."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App

from maftp.cli.options import Several

ops = App(name="ops", help="Build the operators' own kernels, or say which backends there are.")


@ops.command
def build(*kinds: str, arch: Annotated[tuple[str, ...], Several] = (), again: bool = False) -> None:
    """Compile the operators for the CPU, and for GPUs where there is an nvcc.

    Args:
        kinds: cpu, cuda; by default all that this machine has compilers for.
        arch: GPU generations, such as 80 90; by default 80 and newer.
        again: compile what is there already.
    """
    from maftp.errors import OperatorError
    from maftp.ops import build

    for kind in kinds:
        if kind not in build.KINDS:
            raise OperatorError(f"{kind}: no such library; choose from {', '.join(build.KINDS)}")
    for number in arch:
        if not number.isdigit():
            raise OperatorError(f"--arch {number}: no number of a GPU generation, such as 90")
    build.build(kinds or build.buildable(), architectures=arch or build.ARCHITECTURES, again=again)


@ops.command
def status() -> None:
    """Print which backends of the operators can be used here, and why the others cannot."""
    import torch

    from maftp.ops import backends

    for name, reason in backends.status().items():
        print(f"{name:10} {'can be used' if reason is None else reason}")
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    for device in devices:
        print(f"on {device}: {backends.describe(device)}")
