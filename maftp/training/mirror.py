"""A second home of checkpoints: a bucket or another file system, by URI, through pyarrow.

For machines whose disks go with them. A copied checkpoint counts once its digests are there, which
are copied last; buckets know no rename.
"""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from pyarrow import ArrowException
from pyarrow.fs import FileSelector, FileSystem, FileType, copy_files

from maftp.credentials import without_credentials
from maftp.errors import CheckpointError, ParamsError, TrainingError
from maftp.files import atomic_path
from maftp.training.checkpoint import DIGESTS, check_checkpoint, newest_checkpoint

if TYPE_CHECKING:
    from maftp.config import Params

logger = logging.getLogger(__name__)


VARIABLE = "MAFTP_CHECKPOINT_MIRROR"
"""The workflow hands an address with a password to its jobs in this variable, not in a file."""


def with_mirror(params: Params) -> Params:
    """Return parameters whose `resources.checkpoint_mirror` is that of the environment, if any."""
    uri = os.environ.get(VARIABLE)
    if not uri:
        return params
    resources = params.resources.model_copy(update={"checkpoint_mirror": uri})
    return params.model_copy(update={"resources": resources})


class Mirror:
    """Copies of one run's checkpoints under a URI such as s3://bucket/folder."""

    def __init__(self, uri: str, *, run: str) -> None:
        """Name the place; nothing is made yet.

        Args:
            uri: of a folder that all runs may share.
            run: digest of everything the run depends on; its checkpoints lie in a folder of it.

        Raises:
            ParamsError: no file system is known for the URI.
        """
        try:
            self._files, path = FileSystem.from_uri(uri)
        except (ArrowException, ValueError, OSError) as error:
            raise ParamsError(
                without_credentials(
                    f"resources.checkpoint_mirror: {uri!r} is not a place ({error})"
                )
            ) from None
        self._folder = f"{path.rstrip('/')}/{run}"

    def push(self, checkpoint: Path, *, keep: int) -> None:
        """Copy a checkpoint and drop all but the newest `keep`; a failure is logged, not raised."""
        place = f"{self._folder}/{checkpoint.name}"
        try:
            self._files.create_dir(place, recursive=True)
            for file in _digests_last(checkpoint):
                copy_files(str(file), f"{place}/{file.name}", destination_filesystem=self._files)
            for name in self._complete()[:-keep]:
                self._files.delete_dir(f"{self._folder}/{name}")
        except (ArrowException, OSError) as error:
            logger.warning("%s was not copied to %s (%s)", checkpoint, place, error)

    def pull(self, checkpoints: Path) -> None:
        """Fetch the newest copy into the folder `checkpoints` unless that one is as far.

        Raises:
            TrainingError: the place cannot be read.
        """
        try:
            self._pull(checkpoints)
        except (ArrowException, OSError) as error:
            raise TrainingError(
                f"resources.checkpoint_mirror: {self._folder} cannot be read ({error}); mend it, "
                "or set it to null to go on without"
            ) from error

    def _pull(self, checkpoints: Path) -> None:
        here = newest_checkpoint(checkpoints)
        for name in reversed(self._complete()):
            if here is not None and here.name >= name:
                return
            logger.info("fetching %s from %s", name, self._folder)
            try:
                with atomic_path(checkpoints / name, durable=True) as temporary:
                    self._fetch(name, temporary)
                    check_checkpoint(temporary)
            except CheckpointError:
                logger.warning("%s/%s: damaged copy; taking an older one", self._folder, name)
                continue
            return

    def _fetch(self, name: str, target: Path) -> None:
        target.mkdir()
        for info in self._files.get_file_info(FileSelector(f"{self._folder}/{name}")):
            with self._files.open_input_stream(info.path) as remote:
                with open(target / info.base_name, "wb") as local:
                    shutil.copyfileobj(remote, local)

    def _complete(self) -> list[str]:
        """Return the names of whole copies, those of the fewest steps first."""
        selector = FileSelector(self._folder, recursive=True, allow_not_found=True)
        found = self._files.get_file_info(selector)
        return sorted(
            Path(info.path).parent.name
            for info in found
            if info.type == FileType.File and info.base_name == DIGESTS
        )


def _digests_last(checkpoint: Path) -> list[Path]:
    return sorted(checkpoint.iterdir(), key=lambda file: (file.name == DIGESTS, file.name))
