"""A folder for the state that Ray Train and Ray Tune keep of a run. Nothing here reads it."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def scratch_folder() -> Iterator[str]:
    """An empty folder on the driver's disk, deleted after the block.

    Ray writes a run's state through pyarrow's own S3 client, and fails where S3 is away for a
    moment. Our checkpoints and results do not go through Ray, so its state may lie on the local
    disk: only the driver and the controller, which Ray places on the driver's node, touch it.
    """
    with tempfile.TemporaryDirectory(prefix="lafp-ray-", ignore_cleanup_errors=True) as folder:
        yield folder
