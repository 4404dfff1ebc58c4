"""One owner per folder: among real processes, on a local disk and in object stores."""

import itertools
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from lafp import storage
from lafp.runs import lease
from lafp.runs.lease import FILE, Claim, InUseError, delete_abandoned_claim, owned
from lafp.storage import strict_json

SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture(params=["local", "s3", "gs", "az"])
def folder(request, tmp_path) -> str:
    if request.param == "local":
        return str(tmp_path / "run" / "lam")
    return f"{request.getfixturevalue(f'{request.param}_bucket')}/run/lam"


def own_now_and_then(folder: str, num_times: int, log: str, seed: int) -> None:
    """Takes the folder, writes down when, and gives it back."""
    won = 0
    while won < num_times:
        try:
            with owned(folder, None, lambda _: None):
                began = time.monotonic()
                time.sleep(0.01 * (seed % 3))
                won += 1
                with open(log, "a") as file:
                    file.write(f"{began} {time.monotonic()}\n")
        except InUseError:
            time.sleep(0.002 * seed)


def own_for_ever(folder: str, is_owned) -> None:
    with owned(folder, "raysubmit_1", lambda _: None):
        is_owned.set()
        time.sleep(600)


@pytest.fixture
def owner(folder):
    """Another process that owns the folder."""
    is_owned = SPAWN.Event()
    process = SPAWN.Process(target=own_for_ever, args=(folder, is_owned))
    process.start()
    assert is_owned.wait(60)
    yield process
    process.kill()
    process.join()


def take(folder: str) -> list[str]:
    said: list[str] = []
    with owned(folder, None, said.append):
        assert storage.is_file(storage.join(folder, FILE))
    return said


def test_of_many_processes_one_at_a_time_owns_a_folder(folder, tmp_path):
    log = str(tmp_path / "log")
    processes = [
        SPAWN.Process(target=own_now_and_then, args=(folder, 5, log, seed)) for seed in range(1, 5)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    spans = sorted(tuple(map(float, line.split())) for line in Path(log).read_text().splitlines())
    assert len(spans) == 20
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans))
    assert storage.read_version(storage.join(folder, FILE)) is None
    if not storage.is_remote(folder):
        assert not Path(folder).exists() or not list(Path(folder).iterdir())


def test_a_second_owner_is_refused_at_once_and_told_who_holds_the_folder(folder, owner):
    with pytest.raises(InUseError) as error:
        take(folder)
    for part in (folder, f"process {owner.pid} on ", "Ray job raysubmit_1, since 20"):
        assert part in str(error.value)
    assert storage.is_file(storage.join(folder, FILE))


def test_the_claim_of_a_killed_process_of_this_machine_is_void_at_once(folder, owner):
    os.kill(owner.pid, signal.SIGKILL)
    owner.join()
    assert take(folder) == []
    assert not storage.is_file(storage.join(folder, FILE))


def test_a_claim_that_a_killed_process_left_in_a_finished_folder_is_deleted(folder, owner):
    delete_abandoned_claim(folder)
    assert storage.is_file(storage.join(folder, FILE)), "its owner lives"
    os.kill(owner.pid, signal.SIGKILL)
    owner.join()
    if not storage.is_remote(folder):
        (Path(folder) / f".{FILE}.lock").touch()
    storage.write_text(storage.join(folder, "summary.json"), "{}")
    delete_abandoned_claim(folder)
    left = [storage.join(folder, name) for name in (FILE, f".{FILE}.lock", "summary.json")]
    assert [storage.is_file(uri) for uri in left] == [False, False, True]


def test_a_lock_alone_goes_too(tmp_path):
    (tmp_path / f".{FILE}.lock").touch()
    delete_abandoned_claim(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_claim_of_another_machine_on_a_finished_folder_stays(tmp_path):
    of_another_machine(str(tmp_path), time.time())
    begin = time.monotonic()
    delete_abandoned_claim(str(tmp_path))
    assert time.monotonic() - begin < 5
    assert (tmp_path / FILE).exists()


def test_who_has_patience_waits_for_an_owner_that_is_about_to_end(folder, owner):
    timer = threading.Timer(1.0, owner.kill)
    timer.start()
    with owned(folder, None, lambda _: None, patience_s=60):
        owner.join(10)
        assert owner.exitcode is not None
    timer.join()


def of_another_machine(folder: str, renewed_at: float) -> Claim:
    claim = Claim(
        host="elsewhere",
        pid=os.getpid(),
        machine="another kernel",
        started="1",
        job=None,
        since="2026-01-01 10:00:00 +0000",
        renewed_at=renewed_at,
    )
    storage.write_bytes(storage.join(folder, FILE), strict_json.dumps(claim).encode())
    return claim


@pytest.fixture
def hurried(monkeypatch):
    """Seconds become tenths."""
    monkeypatch.setattr(lease, "VOID_AFTER_S", 2.0)
    monkeypatch.setattr(lease, "RENEWED_EVERY_S", 0.2)
    monkeypatch.setattr(lease, "_LOOK_EVERY_S", 0.1)


@pytest.mark.usefixtures("hurried")
def test_an_owner_elsewhere_is_watched_and_its_claim_is_void_when_it_is_not_renewed(folder):
    of_another_machine(folder, time.time())
    begin = time.monotonic()
    (said,) = take(folder)
    assert time.monotonic() - begin >= 2.0
    assert "on elsewhere" in said and "see whether that process still runs" in said


@pytest.mark.usefixtures("hurried")
def test_an_owner_elsewhere_that_renews_its_claim_keeps_it(folder, monkeypatch):
    # The first renewal that is seen decides, however late it comes on a busy machine.
    monkeypatch.setattr(lease, "VOID_AFTER_S", 60.0)
    of_another_machine(folder, time.time())
    is_over = threading.Event()

    def renew() -> None:
        while not is_over.wait(0.3):
            of_another_machine(folder, time.time())

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        with pytest.raises(InUseError, match="on elsewhere"):
            take(folder)
    finally:
        is_over.set()
        thread.join()


def test_a_claim_of_long_ago_is_not_watched(folder):
    of_another_machine(folder, time.time() - 2 * lease.CLOCKS_AGREE_WITHIN_S)
    assert take(folder) == []


@pytest.mark.usefixtures("hurried")
def test_a_claim_outlives_its_time_while_its_owner_lives(folder):
    path = storage.join(folder, FILE)
    with owned(folder, None, lambda _: None):
        first = storage.read_version(path)
        time.sleep(2.5)
        assert storage.read_version(path) != first
    assert not storage.is_file(path)
    assert "lease" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("handler", [signal.default_int_handler, signal.SIG_IGN])
def test_an_owner_that_stood_still_and_lost_its_folder_stops_and_leaves_the_new_claim(
    folder, handler
):
    before = signal.signal(signal.SIGINT, handler)
    try:
        lose(folder)
    finally:
        signal.signal(signal.SIGINT, before)


def lose(folder):
    with (
        pytest.raises(InUseError, match=r"stood still .* on elsewhere, .* taken over"),
        owned(folder, None, lambda _: None),
    ):
        new = of_another_machine(folder, time.time())
        time.sleep(10)
        pytest.fail("nobody stopped it")
    found = storage.read_version(storage.join(folder, FILE))
    assert found and strict_json.loads(Claim, found[0]) == new


def test_a_refused_start_leaves_no_folder(tmp_path):
    with pytest.raises(ValueError), owned(str(tmp_path / "a" / "b"), None, print):
        raise ValueError("refused")
    assert list(tmp_path.iterdir()) == []


def test_a_process_id_that_came_again_is_another_process(tmp_path):
    claim = Claim(
        host="here",
        pid=os.getpid(),
        machine=lease._machine(),
        started="1",
        job=None,
        since="",
        renewed_at=time.time(),
    )
    assert claim.is_alive() is False
    storage.write_bytes(str(tmp_path / FILE), strict_json.dumps(claim).encode())
    assert take(str(tmp_path)) == []


def test_of_two_writers_of_one_version_one_wins(folder):
    path = storage.join(folder, "file")
    assert storage.read_version(path) is None
    first = storage.swap(path, b"1", None)
    assert first and storage.swap(path, b"2", None) is None
    second = storage.swap(path, b"2", first)
    assert second and storage.swap(path, b"3", first) is None
    assert storage.read_version(path) == (b"2", second)
    storage.delete_version(path, first)
    assert storage.is_file(path)
    storage.delete_version(path, second)
    assert storage.read_version(path) is None
    assert storage.swap(path, b"4", second) is None, "the file is gone"
