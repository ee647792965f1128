"""Processes that work for this one, and end with it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import get_context, parent_process
from threading import Thread


@contextmanager
def process_pool(workers: int, prepare: Callable[[], None]) -> Iterator[ProcessPoolExecutor]:
    """Have a pool whose processes end when this one does, however that happens.

    Left alone, a process of a pool waits for its next task for ever when who gives them was killed.
    They are spawned: a forked copy of OpenCV's or torch's thread pool would hang. They do not see
    Ctrl-C: this process answers it, once the tasks at work have ended.

    Args:
        workers: how many there are.
        prepare: is called first in each.
    """
    begin = partial(_begin, prepare)
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=begin)
    starting = Thread(target=_start, args=(pool, workers))  # the main thread alone is interrupted
    try:
        starting.start()
        starting.join()
        yield pool
    finally:
        with suppress(RuntimeError):  # not started yet
            starting.join()
        pool.shutdown(cancel_futures=True)


def _start(pool: ProcessPoolExecutor, workers: int) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    for _ in range(workers):
        pool.submit(os.getpid)  # starts a process, which inherits what is blocked


def _begin(prepare: Callable[[], None]) -> None:
    Thread(target=_end_with_parent, daemon=True).start()
    prepare()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
