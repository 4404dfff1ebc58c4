"""Provides a folder for the state of Ray Train and Ray Tune, which lafp itself never reads."""

from collections.abc import Iterator
from contextlib import contextmanager

from lafp.temporary import TemporaryFolder


@contextmanager
def scratch_folder() -> Iterator[str]:
    """Yields an empty folder on the driver's disk, which is deleted after the block.

    Ray would write its state through pyarrow's S3 client and fail if S3 is down for a moment. Our
    checkpoints and results do not go through Ray, so Ray's state may lie on the local disk: only
    the driver and the controller, which Ray places on the driver's node, use it.
    """
    with TemporaryFolder(ignore_cleanup_errors=True) as folder:
        yield folder
