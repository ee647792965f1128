"""Errors of Ray as sentences: the texts are those of Ray 2.60, cut to what is looked at."""

from __future__ import annotations

from pathlib import Path

import pytest
from ray.exceptions import ActorDiedError, OutOfMemoryError, RaySystemError, WorkerCrashedError
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from maftp.errors import Interrupted, TrainingError
from maftp.training.failure import describe_failure

MEMORY = (
    "1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: "
    "127.0.0.1, ID: d18) was 1.28GB used / 23.54GB limit (0.054206)\nOOM kill reason: ...\n"
    "Refer to the documentation on how to address the out of memory issue"
)
KILLED = (
    "The actor is dead because its worker process has died. Some common causes include: (1) the "
    "process was killed by the OOM killer due to high memory usage, (2) ray stop --force was called"
)
FOLDER = Path("results/x/checkpoints")
AGAIN = "run it again to go on from the last checkpoint"


def lack_of_memory():
    error = OutOfMemoryError(MEMORY)
    return [error, ControllerError(error), WorkerGroupError("rank 0: ...", {0: error})]


@pytest.mark.parametrize("error", lack_of_memory(), ids=lambda error: type(error).__name__)
def test_lack_of_memory_says_which_setting_to_lower(params, error):
    text = str(describe_failure(error, params, folder=FOLDER))
    assert text.startswith("the machine's memory does not suffice (1.28GB of 23.54GB used)")
    assert "set execution.micro_batch_size to 2" in text and text.endswith(AGAIN)


def test_the_advice_names_only_what_can_be_lowered(tiny):
    params = tiny.tiny_params(
        workers=4, micro_batch_size=1, gradient_checkpointing=True, loader_workers=2
    )
    text = str(describe_failure(OutOfMemoryError(MEMORY), params, folder=FOLDER))
    assert "micro_batch_size" not in text and "gradient_checkpointing" not in text
    assert "lower execution.workers, or lower execution.loader_workers" in text
    assert "begin anew with a lower input.train" in text


KILLS = [
    WorkerGroupError("rank 0: ...", {0: ActorDiedError()}),
    ActorDiedError(),
    RaySystemError(KILLED),
    WorkerCrashedError(),
]


@pytest.mark.parametrize("error", KILLS, ids=lambda error: type(error).__name__)
def test_a_killed_process_is_not_taken_for_lack_of_memory(params, error):
    text = str(describe_failure(error, params, folder=FOLDER))
    assert text.startswith(f"a process of Ray was killed or has crashed; {AGAIN} (where")


@pytest.mark.parametrize(
    "error",
    [*lack_of_memory(), *KILLS, RaySystemError("x"), ValueError("two\nlines"), RuntimeError()],
)
def test_every_error_is_one_sentence_that_may_be_tried_again(params, error):
    found = describe_failure(error, params, folder=FOLDER)
    assert isinstance(found, Interrupted)
    assert "\n" not in str(found) and AGAIN in str(found)


def test_a_full_disk_under_ray_s_own_files_does_not_pass_by_itself(params):
    cause = OSError("Error writing bytes to file. Detail: [errno 28] No space left on device")
    found = describe_failure(ControllerError(cause), params, folder=FOLDER)
    assert type(found) is TrainingError
    assert str(found).startswith(f"{FOLDER}: no space is left on this disk; free some")
