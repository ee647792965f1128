"""Errors a user can mend: one sentence that says what was found, where, and what to do."""

from __future__ import annotations

from typing import ClassVar


class MaftpError(Exception):
    """A user's mistake. The command line prints its text without a traceback."""

    exit_code: ClassVar[int] = 1


class ParamsError(MaftpError):
    """A key or value of a parameter file is wrong."""


class DataError(MaftpError):
    """An archive, image, label map or vocabulary is missing, damaged or of the wrong form."""


class DownloadError(DataError):
    """A source could not be fetched, or what came does not match its digest."""


class CheckpointError(MaftpError):
    """A checkpoint is damaged or belongs to another model."""


class TrainingError(MaftpError):
    """Training cannot go on."""


class Preempted(TrainingError):
    """Training was asked to stop and has written a checkpoint; the same command goes on."""

    exit_code: ClassVar[int] = 75
    """EX_TEMPFAIL of sysexits.h: not a mistake, try again."""


class OperatorError(MaftpError):
    """A backend of an operator cannot be built or used."""
