"""Errors of Ray and Ray Train as sentences: what ended, and what to do. All pass through here."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from maftp.errors import Interrupted, TrainingError, describe_os_error
from maftp.training.failure import memory_advice

if TYPE_CHECKING:
    from maftp.config import Params

_AGAIN = "run it again to go on from the last checkpoint"


def describe_failure(error: BaseException, params: Params, *, folder: Path) -> TrainingError:
    """Return what `TorchTrainer.fit` has raised as an error for the user.

    Args:
        error: of any class; Ray Train's are not the only ones that `fit` raises.
        params: of the training; the advice names what can be changed in them.
        folder: where Ray Train stores what it knows of the run.
    """
    texts = [f"{type(part).__name__}: {part}" for part in _parts(error)]
    if any(re.search(r"No space left|quota exceeded", text, re.IGNORECASE) for text in texts):
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
        return TrainingError(
            f"{describe_os_error(full)}; training goes on from its last checkpoint"
        )
    if short := next((text for text in texts if _is_lack_of_memory(text)), None):
        used = re.search(r"was ([\d.]+ ?[KMGT]?B) used / ([\d.]+ ?[KMGT]?B) limit", short)
        amount = f" ({used[1]} of {used[2]} used)" if used else ""
        return Interrupted(
            f"the machine's memory does not suffice{amount}, so Ray ended a worker; "
            f"{memory_advice(params)}, then {_AGAIN}"
        )
    if any(re.search(r"Died|Actor|Worker(Crashed)?Error|process was killed", t) for t in texts):
        return Interrupted(
            f"a process of Ray was killed or has crashed; {_AGAIN} (where the system ended it for "
            f"lack of memory: {memory_advice(params)})"
        )
    last = texts[-1].strip().rpartition("\n")[2].strip()
    return Interrupted(f"a worker was lost ({last}); {_AGAIN}")


def _parts(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and all those it carries, the innermost last."""
    if error is None:
        return
    yield error
    inner = [getattr(error, "controller_failure", None), getattr(error, "cause", None)]
    inner += dict(getattr(error, "worker_failures", None) or {}).values()
    for part in inner:
        if isinstance(part, BaseException):
            yield from _parts(part)


def _is_lack_of_memory(text: str) -> bool:
    """Tell Ray's own verdict from its lists of what might have been the cause."""
    return text.startswith("OutOfMemoryError") or "node running low on memory" in text
