"""Implements ``lafp.storage`` for S3 with boto3. See there for the meaning of each function."""

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from lafp.storage.base import (
    AccessDeniedError,
    FileInfo,
    NotConditionalError,
    ObjectInfo,
    UnreachableError,
)
from lafp.storage.clients.s3 import NUM_TRIES, ask, connected, words
from lafp.storage.remote import (
    answers,
    changed,
    delete_marked,
    downloaded,
    is_hidden,
    split,
    split_folder,
    swapped,
)

# A store whose caches err now and then gives a right answer within so many.
_NUM_PROOFS = 3
_NOT_THAT_VERSION = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")


def is_file(uri: str) -> bool:
    bucket, key = split(uri)
    # Some tools create empty objects of such names to show folders.
    if not key or key.endswith("/"):
        return False
    try:
        ask("look up", uri, lambda s3: s3.head_object(Bucket=bucket, Key=key))
    except FileNotFoundError:
        return False
    return True


def is_reachable(uri: str) -> bool:
    bucket, _ = split(uri)

    def look_up() -> None:
        with connected("look up", uri) as s3:
            s3.head_bucket(Bucket=bucket)

    return answers(look_up)


def look_up(uri: str) -> ObjectInfo:
    bucket, key = split(uri)
    try:
        # A store without ETags has no versions, but one that loses some of them has.
        for _ in range(_NUM_PROOFS):
            found = ask("look up", uri, lambda s3: s3.head_object(Bucket=bucket, Key=key))
            if etag := found.get("ETag"):
                break
        num_bytes = int(found["ContentLength"])
        return ObjectInfo(num_bytes=num_bytes, version=f"{num_bytes} {etag}" if etag else None)
    except AccessDeniedError:
        # The answer to HEAD has no body, which would tell expired credentials from forbidden files.
        read_bytes(uri, 0, 1)
        raise


def read_bytes(uri: str, offset: int, length: int | None, version: str | None = None) -> bytes:
    if length == 0:
        return b""  # no range of HTTP is empty
    bucket, key = split(uri)
    extra: dict[str, Any] = {}
    num_bytes, _, etag = (version or "").partition(" ")
    if version:
        extra["IfMatch"] = etag
    if offset or length is not None:
        extra["Range"] = f"bytes={offset}-" + ("" if length is None else str(offset + length - 1))

    def read(s3: Any) -> bytes:
        from botocore.exceptions import ClientError

        try:
            data, answer = _get(s3, Bucket=bucket, Key=key, **extra)
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code == "InvalidRange":
                return b""  # beyond the end, as on a disk
            if code in _NOT_THAT_VERSION:
                raise changed(uri) from None
            raise
        # A store may have named size and ETag of two versions in one answer.
        whole = answer.get("ContentRange", "").rpartition("/")[2]
        if version and whole not in (num_bytes, "*", ""):
            raise changed(uri)
        return data

    return ask("read", uri, read)


def _get(s3: Any, **request: Any) -> tuple[bytes, Any]:
    """Returns content and answer. Asks again if the content breaks off, which boto3 does not do."""
    from botocore.exceptions import HTTPClientError, IncompleteReadError

    for _ in range(NUM_TRIES - 1):
        with suppress(HTTPClientError, IncompleteReadError):
            return _get_once(s3, request)
    return _get_once(s3, request)


def _get_once(s3: Any, request: dict[str, Any]) -> tuple[bytes, Any]:
    found = s3.get_object(**request)
    return bytes(found["Body"].read()), found


def write_bytes(uri: str, data: bytes) -> None:
    bucket, key = split(uri)
    ask("write", uri, lambda s3: s3.put_object(Bucket=bucket, Key=key, Body=data))


def read_version(uri: str) -> tuple[bytes, str] | None:
    bucket, key = split(uri)
    try:
        return ask("read", uri, lambda s3: _get_proven(s3, uri, Bucket=bucket, Key=key))
    except FileNotFoundError:
        return None


def _get_proven(s3: Any, uri: str, **request: Any) -> tuple[bytes, str]:
    """Returns content and ETag, once it is sure that they belong together.

    A cache before the store may send old content with a new ETag. A write on the condition of that
    ETag would then replace what this process has never seen.
    """
    for _ in range(_NUM_PROOFS):
        data, answer = _get(s3, **request)
        etag = answer.get("ETag")
        if etag and (_is_md5_of(etag, data) or _has(s3, etag, data, request)):
            return data, str(etag)
    if not etag:
        raise NotConditionalError(f"Could not read a version of {uri}: its storage sends no ETag.")
    raise UnreachableError(
        f"Could not read a version of {uri}: its storage sends ETags that are not its own."
    )


def _is_md5_of(etag: str, data: bytes) -> bool:
    """Tells whether an ETag is that of this content. On AWS it is, unless KMS has encrypted it."""
    return etag.strip('"') == hashlib.md5(data, usedforsecurity=False).hexdigest()


def _has(s3: Any, etag: str, data: bytes, request: dict[str, Any]) -> bool:
    """Asks the store itself whether an object has this ETag and this content."""
    from botocore.exceptions import ClientError

    try:
        return _get(s3, IfMatch=etag, **request)[0] == data
    except ClientError as error:
        if error.response["Error"]["Code"] in _NOT_THAT_VERSION:
            return False
        raise


def swap(uri: str, data: bytes, version: str | None) -> str | None:
    bucket, key = split(uri)
    condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}

    def put(s3: Any) -> str | None:
        from botocore.exceptions import ClientError

        try:
            etag = str(s3.put_object(Bucket=bucket, Key=key, Body=data, **condition).get("ETag"))
            # Otherwise ``swapped`` reads the object, as after a lost answer.
            return etag if _is_md5_of(etag, data) else None
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code == "NotImplemented":
                raise NotConditionalError(
                    f"Could not write {uri} on a condition: {words(error)}"
                ) from None
            # "404" is what boto3 makes of an answer whose body broke off.
            is_gone = version is not None and code in ("NoSuchKey", "404")
            if code in _NOT_THAT_VERSION or is_gone:
                return None
            raise

    return swapped(read_version, uri, data, ask("write", uri, put))


def delete_version(uri: str, version: str) -> None:
    # Few stores that speak like S3 have conditional deletes.
    delete_marked(swap, delete, uri, version)


def upload(local: str | Path, uri: str) -> None:
    from boto3.s3.transfer import TransferConfig

    bucket, key = split(uri)
    one = TransferConfig(use_threads=False)
    ask("write", uri, lambda s3: s3.upload_file(str(local), bucket, key, Config=one))
    Path(local).unlink()


def download(uri: str, path: Path) -> None:
    bucket, key = split(uri)
    ask("read", uri, lambda s3: s3.download_file(bucket, key, str(path)))


def local_file(uri: str) -> AbstractContextManager[Path]:
    return downloaded(uri, download)


def list_files(uri: str) -> Iterator[FileInfo]:
    bucket, prefix = split_folder(uri)
    with connected("list", uri) as s3:
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        for page in pages:
            for item in page.get("Contents", []):
                if not is_hidden(item["Key"].removeprefix(prefix)):
                    yield FileInfo(uri=f"s3://{bucket}/{item['Key']}", num_bytes=item["Size"])


def list_folders(uri: str) -> list[str]:
    bucket, prefix = split_folder(uri)

    def prefixes(s3: Any) -> list[str]:
        paginator = s3.get_paginator("list_objects_v2")
        pages = paginator.paginate(Bucket=bucket, Prefix=prefix, Delimiter="/")
        return [item["Prefix"] for page in pages for item in page.get("CommonPrefixes", [])]

    found = ask("list", uri, prefixes)
    return [name.removeprefix(prefix).rstrip("/") for name in found]


def delete(uri: str) -> None:
    bucket, key = split(uri)
    ask("delete", uri, lambda s3: s3.delete_object(Bucket=bucket, Key=key))


def copy(uri: str, target: str) -> None:
    (bucket, key), (to_bucket, to_key) = split(uri), split(target)
    source = {"Bucket": bucket, "Key": key}
    ask("copy", uri, lambda s3: s3.copy(source, to_bucket, to_key))
