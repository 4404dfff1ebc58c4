"""Makes sure that a folder has one owner: a job claims it, renews the claim, and returns it.

The claim is the file ``.lease.json`` in the folder, local or on S3. It is written only if nobody
else has written it since it was read. The owner renews it every ``RENEWED_EVERY_S``. A claim is
void if this machine's kernel knows that its process is dead, or if another process has watched it
for ``VOID_AFTER_S`` without seeing a renewal. The watcher uses its own clock, so the clocks of two
machines need not agree.
"""

import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from lafp import storage
from lafp.storage import NotConditionalError, StorageError, strict_json
from lafp.storage.local import lock_name
from lafp.storage.temporary import delete_unfinished

FILE = ".lease.json"
RENEWED_EVERY_S = 5.0
# Six renewals: storage may fail to answer for some of them.
VOID_AFTER_S = 30.0
CLOCKS_AGREE_WITHIN_S = 900.0
"""Largest assumed difference between two machines' clocks. A claim whose last renewal is older is
void without being watched."""
_LOOK_EVERY_S = 0.5


class InUseError(RuntimeError):
    """Another job owns the folder. The message says which job."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The owner of a folder: the content of ``.lease.json``."""

    host: str
    pid: int
    machine: str
    """Boot id and process-id namespace in which ``pid`` is valid."""
    started: str
    """Start of the process in ticks of the kernel, because process ids are used again."""
    job: str | None
    """The Ray job; None outside of Ray jobs."""
    since: str
    renewed_at: float
    """Seconds since 1970, by the owner's clock."""
    claim_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __str__(self) -> str:
        job = f", Ray job {self.job}" if self.job else ""
        return f"process {self.pid} on {self.host}{job}, since {self.since}"

    def is_alive(self) -> bool | None:
        """Tells whether the process lives; None if this machine cannot know."""
        if self.machine != _machine():
            return None
        return _started(self.pid) == self.started


@contextmanager
def owned(
    folder: str, job: str | None, say: Callable[[str], None], patience_s: float = 0.0
) -> Iterator[None]:
    """Makes this process the only one that works in the folder during the block.

    Folders that the claim has created are removed after the block if they are empty.

    Args:
        folder: Local path or S3 URI. The folder need not exist.
        job: The Ray job. Other processes that want the folder name it in their error.
        say: Receives a line for the user before this function waits to see whether an owner lives.
        patience_s: How long to wait for an owner that lives and is about to end.

    Raises:
        InUseError: Another process owns the folder, or took it over while this one was suspended.
        StorageError: The claim cannot be written.
    """
    made = _missing_folders(folder)
    try:
        lease = _Lease(storage.join(folder, FILE), job)
        lease.take(say, patience_s)
        try:
            with lease.renewed():
                yield
        except KeyboardInterrupt:
            lease.check()  # losing the folder may have caused the interrupt
            raise
        finally:
            # Killed processes of this job may have left unfinished files. Object stores have none.
            if not storage.is_remote(folder):
                delete_unfinished(storage.path_of(folder))
            lease.give_back()
    finally:
        for path in made:
            with suppress(OSError):
                # Folders that hold outputs stay, because ``rmdir`` refuses them.
                path.rmdir()


def delete_abandoned_claim(folder: str) -> None:
    """Deletes what a process left that was killed as it returned its claim on a finished folder.

    Only if its death is certain at once: other claims stay, and no error is raised, because there
    is nothing left to do in the folder.
    """
    with suppress(InUseError, OSError):
        if found := storage.read_version(storage.join(folder, FILE)):
            claim = _read(found[0])
            is_abandoned = claim is not None and _is_void(claim)
        else:
            lock = storage.join(folder, lock_name(FILE))
            is_abandoned = not storage.is_remote(folder) and storage.is_file(lock)
        if is_abandoned:
            with owned(folder, None, lambda _: None):
                pass


class _Lease:
    """The claim of this process on one folder."""

    def __init__(self, uri: str, job: str | None) -> None:
        self._uri = uri
        self._claim = Claim(
            host=socket.gethostname(),
            pid=os.getpid(),
            machine=_machine(),
            started=_started(os.getpid()) or "",
            job=job,
            since=time.strftime("%Y-%m-%d %H:%M:%S %z"),
            renewed_at=time.time(),
        )
        self._version: str | None = None
        self._lost_to: Claim | None = None

    def take(self, say: Callable[[str], None], patience_s: float) -> None:
        """Claims the folder. Raises InUseError if its owner still lives after ``patience_s``."""
        give_up_at = time.monotonic() + patience_s
        while True:
            try:
                return self._take(say)
            except InUseError:
                if time.monotonic() > give_up_at:
                    raise
            time.sleep(_LOOK_EVERY_S)

    def _take(self, say: Callable[[str], None]) -> None:
        """Claims the folder, or watches its claim and takes it over if nobody renews it."""
        seen: tuple[bytes, float] | None = None
        while True:
            found = storage.read_version(self._uri)
            if found is None:
                if self._write(None):
                    return
                # Another process was faster, so its claim is looked at.
                continue
            data, version = found
            claim = _read(data)
            if claim and claim.is_alive():
                raise InUseError(self._in_use(claim))
            if seen is None:
                is_void = claim is not None and _is_void(claim)
                if not is_void:
                    say(
                        f"{self._folder} belongs to {claim or 'an unknown process'}. Waiting up to "
                        f"{VOID_AFTER_S:g} s to see whether that process still runs."
                    )
                seen = data, time.monotonic() - (VOID_AFTER_S if is_void else 0)
            elif data != seen[0] and claim:  # the owner renewed it, or another process took it
                raise InUseError(self._in_use(claim))
            if time.monotonic() - seen[1] >= VOID_AFTER_S:
                if self._write(version):
                    return
                # Somebody has written the claim in the meantime, so the watch begins anew.
                seen = None
            else:
                time.sleep(_LOOK_EVERY_S)

    @contextmanager
    def renewed(self) -> Iterator[None]:
        """Renews the claim in a thread during the block."""
        is_over = threading.Event()
        main_thread = threading.main_thread().ident
        assert main_thread is not None

        def renew() -> None:
            while self._version is not None and not is_over.wait(RENEWED_EVERY_S):
                with suppress(StorageError):  # storage may answer the next time
                    self._renew()
                if self._lost_to:
                    # A signal, because the main thread may be in a blocking call.
                    signal.pthread_kill(main_thread, signal.SIGINT)
                    return

        thread = threading.Thread(target=renew, name="lease", daemon=True)
        thread.start()
        try:
            with self._heard():
                yield
        finally:
            is_over.set()
            # Joined before the claim is given back: a late renewal would write the claim again.
            thread.join()

    @contextmanager
    def _heard(self) -> Iterator[None]:
        """Lets SIGINT through if the claim is lost. Shells make background jobs ignore SIGINT."""
        in_main_thread = threading.current_thread() is threading.main_thread()
        if not in_main_thread or signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
            yield
            return

        def interrupt(*_: object) -> None:
            if self._lost_to:
                raise KeyboardInterrupt

        signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    def check(self) -> None:
        """Raises InUseError if another process has taken over the folder."""
        if self._lost_to:
            raise InUseError(
                f"This process stood still for over {VOID_AFTER_S:g} s, and {self._lost_to} has "
                f"taken over {self._folder}. Let that one go on."
            )

    def give_back(self) -> None:
        if self._version is not None and not self._lost_to:
            with suppress(StorageError):  # a claim that stays becomes void by itself
                storage.delete_version(self._uri, self._version)

    @property
    def _folder(self) -> str:
        return self._uri.removesuffix(f"/{FILE}")

    def _in_use(self, claim: Claim) -> str:
        return (
            f"{self._folder} is in use by {claim}. Wait until that job has ended, or stop it. If "
            f"it was killed, its claim ends {VOID_AFTER_S:g} s later."
        )

    def _write(self, version: str | None) -> bool:
        """Writes the claim, and tells whether this process owns the folder now."""
        try:
            text = strict_json.dumps(self._claim, indent=1)
            written = storage.swap(self._uri, text.encode(), version)
        except NotConditionalError as error:
            raise StorageError(
                f"{error} Without conditional writes two jobs could write into one folder. Use an "
                "object store that has them (AWS, MinIO, Ceph, R2 do), or a shared folder."
            ) from error
        self._version = written or self._version
        return written is not None

    def _renew(self) -> None:
        """Writes the claim again, or notes in ``_lost_to`` who has taken over the folder."""
        self._claim = replace(self._claim, renewed_at=time.time())
        if self._write(self._version):
            return
        found = storage.read_version(self._uri)
        if found is None:
            self._write(None)  # somebody deleted the folder
        elif (claim := _read(found[0])) and claim.claim_id != self._claim.claim_id:
            self._lost_to = claim
        else:
            # Still our claim: an earlier write succeeded although storage reported an error.
            self._version = found[1]


def _read(data: bytes) -> Claim | None:
    try:
        return strict_json.loads(Claim, data)
    except ValueError:
        return None


def _is_void(claim: Claim) -> bool:
    is_old = time.time() - claim.renewed_at > CLOCKS_AGREE_WITHIN_S
    return claim.is_alive() is False or (is_old and not claim.is_alive())


def _missing_folders(folder: str) -> list[Path]:
    """Lists the folders that the claim will create, innermost first."""
    if storage.is_remote(folder):
        return []
    return [path for path in (Path(folder), *Path(folder).parents) if not path.exists()]


def _machine() -> str:
    """Identifies the set of processes whose process ids this process can look up."""
    # Containers on one machine share its boot id, but may have process ids of their own.
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot_id} {os.readlink('/proc/self/ns/pid')}"


def _started(pid: int) -> str | None:
    """Returns when the process began, in ticks of the kernel; None if it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The program's name stands in parentheses, and may itself hold spaces and parentheses.
    state, *rest = stat.rpartition(")")[2].split()
    # The start is field 22 of proc(5), and ``rest`` begins with field 4. A zombie (Z) has ended,
    # although its process id stays until its parent asks for the exit status.
    return None if state in "ZX" else rest[18]
