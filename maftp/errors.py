"""Errors a user can mend: one sentence that says what was found, where, and what to do."""

from __future__ import annotations

import errno
import os
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


class OutputError(MaftpError):
    """The place for a result cannot be written to."""


class CheckpointError(MaftpError):
    """A checkpoint is damaged or belongs to another model."""


class TrainingError(MaftpError):
    """Training cannot go on."""


class Interrupted(TrainingError):
    """Training ended on what may pass, such as a lost worker; the same command goes on."""


class Preempted(Interrupted):
    """Training was asked to stop and has written a checkpoint; the same command goes on."""

    exit_code: ClassVar[int] = 75
    """EX_TEMPFAIL of sysexits.h: not a mistake, try again."""


class OperatorError(MaftpError):
    """A backend of an operator cannot be built or used."""


FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
"""Codes of errors that end when space is freed."""
_ADVICE = {
    errno.ENOSPC: "no space is left on this disk; free some and run it again",
    errno.EDQUOT: "your quota on this disk is used up; free some space and run it again",
    errno.EROFS: "the file system is read-only; choose another place or mount it for writing",
    errno.EACCES: "permission denied; change the permissions or choose another place",
    errno.EPERM: "the system does not permit that; change the permissions or choose another place",
    errno.EISDIR: "is a folder where a file is wanted; give the name of a file",
    errno.ENOTDIR: "a part of the path is a file, not a folder; choose another place",
    errno.EEXIST: "something of this name is in the way; move it or choose another place",
    errno.ENOTEMPTY: "the folder is not empty; move what is in it or choose another place",
    errno.ENOENT: "no such file or folder; check the name",
    errno.ENAMETOOLONG: "the name is too long for this file system; choose a shorter one",
    errno.ELOOP: "links lead round in a circle; mend them",
    errno.EMFILE: "too many files are open at once; raise the limit (ulimit -n) and run it again",
    errno.ENFILE: "too many files are open on this machine; run it again later",
    errno.EIO: "the disk reports an error; check it, then run it again",
    errno.ESTALE: "the network file system has lost the file; run it again",
    errno.EFBIG: "the file grows larger than allowed (ulimit -f); raise the limit",
    errno.EPIPE: "what read the output has ended",
    errno.ENOMEM: "the machine's memory does not suffice; give it more and run it again",
}


def describe_os_error(error: OSError, *, named: bool = True) -> str:
    """Return an error of the operating system as a sentence with the file and what to do.

    Args:
        error: what was raised.
        named: begin with the file's name, where the error knows it.
    """
    code = errno.errorcode.get(error.errno or 0, "")
    reason = _ADVICE.get(error.errno or 0)
    if reason is None:
        reason = error.strerror or " ".join(str(error).split()) or type(error).__name__
    file = error.filename2 or error.filename
    place = (
        f"{os.fsdecode(file)}: " if named and isinstance(file, (str, bytes, os.PathLike)) else ""
    )
    return f"{place}{reason}" + (f" ({code})" if code else "")
