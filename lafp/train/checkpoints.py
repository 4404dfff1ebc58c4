"""Stores checkpoints while training goes on, counts only whole ones, and keeps the last few."""

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch.distributed as dist

from lafp import storage
from lafp.storage import FullError, StorageError, strict_json
from lafp.storage.local import full_disk
from lafp.train.checkpoint_files import RankCard, card_name, crc32_of, damage_of, is_whole
from lafp.train.notes import write_note

FOLDER = "checkpoints"
_NAME = re.compile(r"step-(\d+)")
_SET_ASIDE = "damaged-"


class DamagedCheckpointsError(RuntimeError):
    """No checkpoint of a run is sound any more. The message says where they lie."""


class Checkpoints:
    """The checkpoints of one run, seen by one rank.

    A checkpoint is a folder ``step-000000500`` with the files of all ranks. Each rank writes its
    card, such as ``rank-00000.json``, when its files are there and have been read back. Only a
    folder with the cards of all ranks is a checkpoint, so a process may be killed at any point: no
    other process has to hear from it that the checkpoint exists.

    Args:
        uri: The stage's folder, local or S3.
        num_to_keep: Number of whole checkpoints to keep. Older ones are deleted.
        rank: Rank of this process.
        world_size: Processes that train together.
    """

    def __init__(self, uri: str, num_to_keep: int, rank: int = 0, world_size: int = 1) -> None:
        self._stage_uri, self._uri = uri, storage.join(uri, FOLDER)
        self._num_to_keep = num_to_keep
        self._rank, self._world_size = rank, world_size
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None
        # The name is the same after a restart, so that leftovers are found. Each run has another
        # name, because several runs may share a machine.
        self._local = f"lafp-checkpoint-{sha256(self._uri.encode()).hexdigest()[:12]}"

    @contextmanager
    def restored(
        self, fetched: Callable[[str], AbstractContextManager[Path]] | None = None
    ) -> Iterator[Path | None]:
        """Yields a local folder with the last sound checkpoint; None if there is no checkpoint yet.

        Every file is compared with its checksum first. A damaged checkpoint is renamed, so that it
        does not count and is not lost either, and the one before it is taken. All ranks call this,
        check a share of the files each, and get the same checkpoint.

        Args:
            fetched: URI of a checkpoint -> a local folder with its files, within the block. None
                if the URI is a local folder already.

        Raises:
            DamagedCheckpointsError: There were checkpoints, and none is sound.
        """
        self._remove_leftovers()
        has_damaged = False
        while (latest := self.start()) is not None:
            with fetched(latest) if fetched else _in_place(latest) as folder:
                damage = self._first_of_all_ranks(
                    # Without an end, because more ranks may have written the checkpoint than read
                    # it.
                    damage_of(folder, range(self._rank, 1 << 30, self._world_size))
                )
                if damage is None:
                    yield folder
                    return
            has_damaged = True
            self._set_aside(latest, damage)
        if has_damaged:
            raise DamagedCheckpointsError(
                f"No checkpoint in {self._uri} is sound. They are set aside there, as "
                f"{_SET_ASIDE}step-*. Run the same command again to train from step 0."
            )
        yield None

    def start(self) -> str | None:
        """Returns the URI of the last whole checkpoint. All ranks call it and get the same one.

        It deletes later checkpoints, which killed workers left unfinished, before new ones are
        saved.
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
            # Rank 0 decides for all, because ranks that look at different moments may see different
            # folders.
            dist.broadcast_object_list(latest)
        return None if latest[0] is None else self._folder(latest[0])

    def last_step(self) -> int | None:
        """Returns the step of the last whole checkpoint; None if there is none. Deletes nothing."""
        steps = reversed(self._steps())
        return next((step for step in steps if is_whole(self._folder(step))), None)

    @contextmanager
    def writing(self, num_bytes: int) -> Iterator[Path]:
        """Yields an empty folder on the local disk, for this rank's files of the next checkpoint.

        All ranks call it, after ``wait``. After an error the folder is deleted.

        Args:
            num_bytes: Approximate size of a checkpoint, for the message about a full disk.

        Raises:
            FullError: The disk is full.
        """
        self._remove_leftovers()
        folder = Path(tempfile.gettempdir(), f"{self._local}-rank-{self._rank:05d}")
        # All users of the machine share the temporary folder.
        folder.mkdir(mode=0o700)
        try:
            yield folder
        except BaseException as error:
            shutil.rmtree(folder, ignore_errors=True)
            if _is_full(error):
                free = shutil.disk_usage(folder.parent).free
                raise FullError(
                    f"Could not write a checkpoint into {folder.parent}: the disk is full, or a "
                    f"limit on the size of files is reached. A checkpoint takes about "
                    f"{num_bytes / 2**20:,.0f} MiB, {free / 2**20:,.0f} MiB are free. Make room, "
                    "or set TMPDIR to a folder on a larger disk."
                ) from error
            raise

    def save(self, folder: Path, step: int) -> None:
        """Stores this rank's files of a checkpoint in the background.

        All ranks call it, after ``wait``. This object deletes the folder afterwards.
        """
        assert self._pending is None
        self._pending = self._thread.submit(self._store, folder, step)

    def check(self) -> None:
        """Raises StorageError if the last ``save`` has failed. Does not wait."""
        if self._pending is not None and self._pending.done():
            self._pending.result()

    def wait(self) -> None:
        """Waits until this rank's files are stored.

        Raises:
            StorageError: The files could not be written, or their bytes differ when read back.
        """
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def settle(self) -> None:
        """Waits until nothing is being stored any more, whether that succeeds or not."""
        with suppress(OSError):
            self.wait()

    def finish(self) -> None:
        """Waits until the last checkpoint is whole. All ranks call it."""
        self.wait()
        if self._world_size > 1:
            dist.barrier()
        if self._rank == 0:
            self._prune()

    def _store(self, folder: Path, step: int) -> None:
        """Uploads this rank's files, reads them back, and then writes the rank's card."""
        target = self._folder(step)
        checksums = {}
        try:
            for path in sorted(path for path in folder.rglob("*") if path.is_file()):
                name = path.relative_to(folder).as_posix()
                with path.open("rb") as file:
                    checksums[name] = crc32_of(file)
                stored = storage.join(target, name)
                storage.upload(path, stored)
                # Read back before the card is written, because the card says that the files are
                # sound.
                with storage.open_file(stored) as file:
                    if crc32_of(file) != checksums[name]:
                        raise StorageError(f"{stored} reads otherwise than it was written.")
            card = RankCard(world_size=self._world_size, crc32=checksums)
            strict_json.write(storage.join(target, card_name(self._rank)), card)
        except FullError:
            for name in checksums:  # half a checkpoint only takes room
                with suppress(OSError):
                    storage.delete(storage.join(target, name))
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if self._rank == 0:
            self._prune()

    def _prune(self) -> None:
        """Deletes all folders, whole or not, that are older than the checkpoints to keep."""
        steps = self._steps()
        kept = self._whole(steps)[-self._num_to_keep :]
        for step in steps:
            if kept and step < kept[0]:
                self._delete(step)

    def _delete(self, step: int) -> None:
        folder = self._folder(step)
        # The card goes first, so that a half-deleted checkpoint does not look whole.
        storage.delete(storage.join(folder, card_name(0)))
        storage.patiently(lambda: storage.delete_folder(folder))

    def _set_aside(self, folder: str, damage: str) -> None:
        """Renames a damaged checkpoint, and tells the user in a note."""
        if self._rank > 0:
            return
        name = folder.rpartition("/")[2]
        taken = {*storage.list_folders(self._uri)}
        # These are more names than there are folders, so at least one is free.
        names = [_SET_ASIDE + name, *(f"{_SET_ASIDE}{name}-{n}" for n in range(2, len(taken) + 3))]
        target = storage.join(self._uri, next(n for n in names if n not in taken))
        # The card goes first, so that a half-moved checkpoint does not look whole.
        storage.move_folder(folder, target, first=card_name(0))
        step = int(name.removeprefix("step-"))
        text = (
            f"The checkpoint of step {step} is damaged: {damage}. It is set aside as {target}, and "
            "the run goes on from the one before it."
        )
        write_note(self._stage_uri, step, text)

    def _first_of_all_ranks(self, damage: str | None) -> str | None:
        # Each rank has checked other files. All must take the same checkpoint, so all must hear of
        # damage that one has found.
        everyones: list[Any] = [damage]
        if self._world_size > 1:
            everyones = [None] * self._world_size
            dist.all_gather_object(everyones, damage)
        return next((found for found in everyones if found is not None), None)

    def _remove_leftovers(self) -> None:
        """Deletes local files that earlier processes of this rank left on this machine.

        A run that had more workers left files of higher ranks; each rank deletes its share of them.
        """
        for path in Path(tempfile.gettempdir()).glob(f"{self._local}-rank-*"):
            if int(path.name.rpartition("-")[2]) % self._world_size == self._rank:
                shutil.rmtree(path, ignore_errors=True)

    def _steps(self) -> list[int]:
        names = (_NAME.fullmatch(name) for name in storage.list_folders(self._uri))
        return sorted(int(found[1]) for found in names if found)

    def _whole(self, steps: list[int]) -> list[int]:
        return [step for step in steps if is_whole(self._folder(step))]

    def _folder(self, step: int) -> str:
        return storage.join(self._uri, f"step-{step:09d}")


@contextmanager
def _in_place(uri: str) -> Iterator[Path]:
    yield Path(uri)


def _is_full(error: BaseException) -> bool:
    """Says whether the error means a full disk. torch only says that its writer has failed."""
    return full_disk(error) or any(
        word in str(error) for word in ("PytorchStreamWriter", "inline_container")
    )
