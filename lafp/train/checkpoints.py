"""Checkpoints: stored while training goes on, counted only when whole, the last few kept."""

import json
import shutil
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import torch.distributed as dist

from lafp import storage, strict_json
from lafp.storage import StorageError

FOLDER = "checkpoints"
_CHUNK_BYTES = 8 << 20


class Checkpoints:
    """The checkpoints of one run, seen by one rank.

    A checkpoint is a folder ``step-000000500`` with the files of all ranks. Every rank writes a
    ``rank-00000.json`` when its files are there and have been read back; only a folder with those
    of all ranks is a checkpoint. So it does not matter where anybody is killed.

    Args:
        uri: The stage's folder, local or S3.
        num_to_keep: Whole checkpoints; older ones go when a newer one is whole.
        rank: Of this process.
        world_size: Processes that train together.
    """

    def __init__(self, uri: str, num_to_keep: int, rank: int = 0, world_size: int = 1) -> None:
        self._uri = storage.join(uri, FOLDER)
        self._num_to_keep = num_to_keep
        self._rank, self._world_size = rank, world_size
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def start(self) -> str | None:
        """URI of the last whole checkpoint, the same on all ranks, which all call it.

        Deletes what killed workers have left unfinished after it, before anybody saves anew.
        """
        latest: list[int | None] = [None]
        if self._rank == 0:
            steps = self._steps()
            whole = self._whole(steps)
            latest = [whole[-1] if whole else None]
            for step in steps:
                if step > (latest[0] or 0):
                    self._delete(step)
        if self._world_size > 1:
            dist.broadcast_object_list(latest)
        return None if latest[0] is None else self._folder(latest[0])

    def save(self, folder: Path, step: int) -> None:
        """Stores this rank's files of a checkpoint in the background.

        All ranks call it, after ``wait``. The folder is then this object's to delete.
        """
        assert self._pending is None
        self._pending = self._thread.submit(self._store, folder, step)

    def check(self) -> None:
        """Raises StorageError if the last ``save`` has failed. Costs nothing."""
        if self._pending is not None and self._pending.done():
            self._pending.result()

    def wait(self) -> None:
        """Waits until this rank's files are stored.

        Raises:
            StorageError: They could not be written, or read back otherwise than they were.
        """
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def finish(self) -> None:
        """Waits until the last checkpoint is whole. All ranks call it."""
        self.wait()
        if self._world_size > 1:
            dist.barrier()
        if self._rank == 0:
            self._prune()

    def _store(self, folder: Path, step: int) -> None:
        target = self._folder(step)
        checksums = {}
        try:
            for path in sorted(path for path in folder.rglob("*") if path.is_file()):
                name = path.relative_to(folder).as_posix()
                with path.open("rb") as file:
                    checksums[name] = _crc32(file)
                stored = storage.join(target, name)
                storage.upload(path, stored)
                with storage.open_file(stored) as file:
                    if _crc32(file) != checksums[name]:
                        raise StorageError(f"{stored} reads otherwise than it was written.")
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        card = {"world_size": self._world_size, "crc32": checksums}
        storage.write_text(storage.join(target, _card(self._rank)), strict_json.dumps(card))
        if self._rank == 0:
            self._prune()

    def _prune(self) -> None:
        """Deletes what is older than the checkpoints to keep, whole or not."""
        steps = self._steps()
        kept = self._whole(steps)[-self._num_to_keep :]
        for step in steps:
            if kept and step < kept[0]:
                self._delete(step)

    def _delete(self, step: int) -> None:
        folder = self._folder(step)
        storage.delete(storage.join(folder, _card(0)))  # first: half of one must not look whole
        storage.patiently(lambda: storage.delete_folder(folder))

    def _steps(self) -> list[int]:
        names = storage.list_folders(self._uri)
        return sorted(int(name.removeprefix("step-")) for name in names if name[:5] == "step-")

    def _whole(self, steps: list[int]) -> list[int]:
        return [step for step in steps if is_whole(self._folder(step))]

    def _folder(self, step: int) -> str:
        return storage.join(self._uri, f"step-{step:09d}")


def is_whole(folder: str) -> bool:
    """Whether a checkpoint's folder holds the files of all ranks that wrote it."""
    first = storage.join(folder, _card(0))
    if not storage.is_file(first):
        return False
    num_ranks = json.loads(storage.read_text(first))["world_size"]
    files = storage.patiently(lambda: list(storage.list_files(folder)))
    names = {info.uri.rpartition("/")[2] for info in files}
    return names.issuperset(_card(rank) for rank in range(num_ranks))


def _card(rank: int) -> str:
    return f"rank-{rank:05d}.json"


def _crc32(file: BinaryIO) -> int:
    value = 0
    while chunk := file.read(_CHUNK_BYTES):
        value = zlib.crc32(chunk, value)
    return value
