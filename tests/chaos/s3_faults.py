"""An S3 that errs, stalls, breaks off and loses its answers, and what storage makes of it.

python -m tests.chaos.s3_faults [--operations 1000] [--seed 1] [--patience-s 180] [--lies 0.3]

A proxy stands before a real S3 API. A fault befalls a share of the requests: an error before or
instead of the request, an answer that is lost after the request was done, a body that breaks off, a
slow answer. Random reads and writes through it must give what they give on a good S3. Prints a JSON
line.

With ``--lies``, a share of the answers names an ETag that is not the object's: of an earlier
version, of another object, of none, or none at all. Sometimes another client replaces an object
while it is read, and the lie is the ETag of the new version. Then an operation may be refused with
an error, but what it gives and what is stored afterwards must be right.
"""

import argparse
import json
import logging
import os
import random
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lafp import storage
from lafp.runs import lease
from lafp.storage import s3
from tests.chaos.faulty_s3 import FaultyS3, faulty_s3
from tests.s3_server import running_s3

LARGE_BYTES = 9 * 2**20
"""boto3 uploads and downloads such a file in several parts."""


class Trial:
    """Random operations below a prefix, beside a dict that holds what must be there.

    Args:
        root: The prefix's URI.
        folder: For local files.
        seed: Of the operations.
        proxy: What stands before the store, if it lies. Operations may then be refused.
        truth: A client of the store itself, for that case.
    """

    def __init__(
        self,
        root: str,
        folder: Path,
        seed: int,
        proxy: FaultyS3 | None = None,
        truth: Any = None,
    ) -> None:
        self.root, self.folder = root, folder
        self.rng = random.Random(seed)
        self.expected: dict[str, bytes] = {}
        self.faults: list[str] = []
        self.counts: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self._proxy, self._truth = proxy, truth
        self._tried = b""

    def run(self, num_operations: int) -> None:
        """Does the operations, and compares what each gives."""
        operations: list[Callable[[str], None]] = [
            *(self.write, self.upload, self.read, self.read_part, self.read_version),
            *(self.swap, self.swap_old, self.delete, self.copy, self.listing, self.download),
        ]
        if self._proxy:
            operations += [self.swap_overtaken, self.read_overtaken, self.own]
        for number in range(num_operations):
            operation = self.rng.choice(operations)
            name = f"{self.rng.choice('ab')}/{self.rng.randrange(4)}"
            self.counts[operation.__name__] += 1
            before = dict(self.expected)
            try:
                operation(name)
            except OSError as error:
                if not self._proxy:
                    self.faults.append(f"{number} {operation.__name__} {name}: {error!r}"[:300])
                    continue
                kind = type(error).__name__
                self.refused[f"{operation.__name__}: {kind}"] += 1
                self._settle(f"{number} {operation.__name__}", before)
        self.listing("a/0")

    def _settle(self, what: str, before: dict[str, bytes]) -> None:
        """A refused operation has been done or not done, and touched nothing else."""
        for name in before.keys() | self.expected.keys():
            stored = self._stored(name)
            if stored not in (before.get(name), self.expected.get(name), self._tried):
                self.faults.append(f"{what} was refused and left {name} as {str(stored)[:80]}")
            if stored is None:
                self.expected.pop(name, None)
            else:
                self.expected[name] = stored

    def _stored(self, name: str) -> bytes | None:
        """What the store itself has."""
        bucket, _, key = self._uri(name).removeprefix("s3://").partition("/")
        try:
            return bytes(self._truth.get_object(Bucket=bucket, Key=key)["Body"].read())
        except self._truth.exceptions.NoSuchKey:
            return None

    def _put(self, name: str, data: bytes) -> str:
        """Writes as another client, straight to the store. Returns the ETag."""
        bucket, _, key = self._uri(name).removeprefix("s3://").partition("/")
        self.expected[name] = data
        return str(self._truth.put_object(Bucket=bucket, Key=key, Body=data)["ETag"])

    def _check(self, what: str, found: object, expected: object) -> None:
        if found != expected:
            self.faults.append(f"{what}: {str(found)[:80]} is not {str(expected)[:80]}")

    def _uri(self, name: str) -> str:
        return storage.join(self.root, name)

    def _data(self, most: int = 200_000) -> bytes:
        return self.rng.randbytes(self.rng.randrange(1, most))

    def write(self, name: str) -> None:
        self.expected[name] = data = self._data()
        storage.write_bytes(self._uri(name), data)

    def upload(self, name: str) -> None:
        is_large = self.rng.random() < 0.2
        self.expected[name] = data = self._data() + bytes(LARGE_BYTES if is_large else 0)
        path = self.folder / "uploaded"
        path.write_bytes(data)
        storage.upload(path, self._uri(name))

    def read(self, name: str) -> None:
        if name in self.expected:
            self._check(f"read {name}", storage.read_bytes(self._uri(name)), self.expected[name])
        else:
            self._check(f"is_file {name}", storage.is_file(self._uri(name)), False)

    def read_part(self, name: str) -> None:
        if data := self.expected.get(name):
            begin = self.rng.randrange(len(data))
            with storage.open_file(self._uri(name)) as file:
                file.seek(begin)
                self._check(f"part of {name}", file.read(5_000), data[begin : begin + 5_000])

    def read_version(self, name: str) -> None:
        found = storage.read_version(self._uri(name))
        self._check(f"version of {name}", found and found[0], self.expected.get(name))

    def swap(self, name: str) -> None:
        found = storage.read_version(self._uri(name))
        self._tried = data = self._data(1_000)
        made = storage.swap(self._uri(name), data, found[1] if found else None)
        self._check(f"swap of {name} is done", made is not None, True)
        self.expected[name] = data

    def swap_old(self, name: str) -> None:
        made = storage.swap(self._uri(name), self._data(1_000), f'"{uuid.uuid4().hex}"')
        self._check(f"swap of an old version of {name}", made, None)

    def delete(self, name: str) -> None:
        self.expected.pop(name, None)
        storage.delete(self._uri(name))

    def copy(self, name: str) -> None:
        if name in self.expected:
            target = f"c/{name[-1]}"
            self.expected[target] = self.expected[name]
            s3.copy(self._uri(name), self._uri(target))

    def listing(self, _: str) -> None:
        found = {file.uri: file.num_bytes for file in storage.list_files(self.root)}
        expected = {self._uri(name): len(data) for name, data in self.expected.items()}
        self._check("list", sorted(found.items()), sorted(expected.items()))
        folders = sorted({name[0] for name in self.expected})
        self._check("folders", sorted(storage.list_folders(self.root)), folders)

    def download(self, name: str) -> None:
        if name in self.expected:
            with storage.local_file(self._uri(name)) as path:
                self._check(f"download {name}", path.read_bytes(), self.expected[name])

    def swap_overtaken(self, name: str) -> None:
        """Another client may replace the object while its version is read."""
        self._put(name, self._data(1_000))
        self._tried = mine = self._data(1_000)
        with self._overtaken(name, self._data(1_000)):
            found = storage.read_version(self._uri(name))
        last = self.expected[name]
        made = storage.swap(self._uri(name), mine, found[1] if found else None)
        if made is None:
            self._check(f"{name}, not swapped,", self._stored(name), last)
        else:
            self._check(f"what a swap of {name} replaced", found and found[0], last)
            self.expected[name] = mine

    def read_overtaken(self, name: str) -> None:
        """Another client replaces the object before, or between, the reads of two parts."""
        data, size = self._data() + bytes(5_000), 2_500
        self._put(name, data)
        # Of the same size half the time, when nothing but the version tells the two apart.
        theirs = self.rng.randbytes(len(data) + self.rng.choice([0, 0, 100, -100]))
        with self._overtaken(name, theirs):
            file = storage.open_file(self._uri(name))
            file.seek(-size, os.SEEK_END)
            last = file.read(size)
        if self._stored(name) == data:
            self._put(name, theirs)
        file.seek(0)
        parts = file.read(size), last
        whole = [(version[:size], version[-size:]) for version in (data, theirs)]
        self._check(f"two parts of {name} are those of one version", parts in whole, True)

    @contextmanager
    def _overtaken(self, name: str, data: bytes) -> Iterator[None]:
        """During the block, an answer about the object may come after another client's write."""
        assert self._proxy is not None
        path, num_left = self._uri(name).removeprefix("s3:/"), self.rng.choice([1, 2])

        def overtake(requested: str) -> str | None:
            nonlocal num_left
            if requested.partition("?")[0] != path:
                return None
            num_left -= 1
            return self._put(name, data) if num_left == 0 else None

        self._proxy.overtake = overtake
        try:
            yield
        finally:
            self._proxy.overtake = None

    def own(self, name: str) -> None:
        """A lease, renewed quickly, has one owner."""
        folder = self._uri(f"owned/{name}")
        try:
            with lease.owned(folder, None, lambda _: None):
                self._check(f"{name} has two owners", self._is_owned_twice(folder), False)
                time.sleep(5 * lease.RENEWED_EVERY_S)
        finally:
            # A claim that could not be given back would stand until this process ends.
            bucket, _, key = f"{folder}/{lease.FILE}".removeprefix("s3://").partition("/")
            self._truth.delete_object(Bucket=bucket, Key=key)

    def _is_owned_twice(self, folder: str) -> bool:
        with suppress(lease.InUseError, OSError), lease.owned(folder, None, lambda _: None):
            return True
        return False


def main() -> None:
    """Runs the operations through the proxy."""
    import boto3

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--operations", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--share", type=float, default=0.2, help="of the requests with a fault")
    parser.add_argument("--lies", type=float, default=0.0, help="of the answers with an ETag")
    parser.add_argument("--patience-s", type=float, default=0.0, help="180 is that of workers")
    args = parser.parse_args()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    storage.be_patient(args.patience_s)
    lease.RENEWED_EVERY_S = 0.02
    begin_s = time.monotonic()
    with running_s3() as settings, tempfile.TemporaryDirectory() as folder:
        os.environ |= settings
        truth = boto3.client("s3")
        truth.create_bucket(Bucket="faulty")
        endpoint = settings["AWS_ENDPOINT_URL"]
        with faulty_s3(endpoint, args.seed, args.share, args.lies) as proxy:
            os.environ["AWS_ENDPOINT_URL"] = proxy.url
            liar = (proxy, truth) if args.lies else ()
            trial = Trial("s3://faulty/run", Path(folder), args.seed, *liar)
            trial.run(args.operations)
    line = {
        "operations": dict(sorted(trial.counts.items())),
        "injected": dict(sorted(proxy.faults.items())),
        "refused": dict(sorted(trial.refused.items())),
        "wall_s": round(time.monotonic() - begin_s, 1),
        "faults": trial.faults,
    }
    print(json.dumps(line))
    sys.exit(bool(trial.faults))


if __name__ == "__main__":
    main()
