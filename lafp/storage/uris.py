"""Defines what URIs look like: which name an object, how they are joined and made absolute."""

import os
import re
from pathlib import Path

from lafp.storage.names import escape_raw_bytes

OBJECT_STORES = ("s3", "gs", "az", "hf")
_ONE_SLASH = re.compile(rf"^({'|'.join(OBJECT_STORES)}):/(?=[^/])")


def is_remote(uri: str) -> bool:
    """Tells whether ``uri`` names an object, or a prefix of objects, in an object store."""
    return uri.partition("://")[0] in OBJECT_STORES and "://" in uri


def is_http(uri: str) -> bool:
    """Tells whether ``uri`` names a file on the web, which ``lafp.http.download`` fetches."""
    return uri.startswith(("http://", "https://"))


def join(uri: str, *parts: str) -> str:
    """Joins ``uri`` and ``parts`` with single slashes."""
    return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts)])


def uri_of(path: str | os.PathLike[str]) -> str:
    """Turns a path that a user passed, a string or a ``Path``, into a URI, and expands ``~``.

    A ``Path`` merges the two slashes of ``s3://`` and ``hf://`` into one. This function restores
    them.

    Raises:
        TypeError: ``path`` is neither a string nor a path.
    """
    uri = os.path.expanduser(os.fspath(path))
    return _ONE_SLASH.sub(r"\1://", uri)


def absolute(uri: str) -> str:
    """Makes a URI independent of the working directory, which differs between Ray workers."""
    if is_remote(uri) or is_http(uri):
        return uri
    # Only ``~`` and ``~/`` mean the home folder: ``~name`` may be the name of a file.
    is_below_home = uri == "~" or uri.startswith("~/")
    path = Path(os.path.expanduser(uri) if is_below_home else uri)
    return escape_raw_bytes(str(path.absolute()))
