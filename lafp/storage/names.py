r"""Converts between names of local files and URIs.

A file name on disk is bytes, and not always UTF-8, but a URI is text that tables, JSON and
databases must store. A byte that is not UTF-8 is written ``\xe9`` in a URI. A backslash that stands
before ``xe9`` or ``x5c`` in the name itself is written ``\x5c``, so that every name has its own URI
and can be recovered from it. Other characters are not changed.
"""

import os
import re
from pathlib import Path

_CODE = "x(5c|[89a-f][0-9a-f])"
_ESCAPED = re.compile(rf"\\{_CODE}")
_AMBIGUOUS = re.compile(rf"\\(?={_CODE})")
# `os.fsdecode` represents a byte that is not UTF-8 by one of these characters.
_RAW_BYTE = re.compile("[\udc80-\udcff]")


def uri_of_name(name: str) -> str:
    """Returns the URI of a path, or of any other name that ``os.fsdecode`` has decoded."""
    return escape_raw_bytes(_AMBIGUOUS.sub(r"\\x5c", name))


def escape_raw_bytes(uri: str) -> str:
    """Escapes the bytes of a typed URI that are not UTF-8."""
    return _RAW_BYTE.sub(lambda found: f"\\x{os.fsencode(found[0])[0]:02x}", uri)


def path_of(uri: str) -> Path:
    """Returns the path that a URI names.

    Raises:
        FileNotFoundError: No file can have this name.
    """
    path = _ESCAPED.sub(lambda found: os.fsdecode(bytes([int(found[1], 16)])), uri)
    try:
        is_possible = b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        is_possible = False
    if not is_possible:
        raise FileNotFoundError(f"No file can have this name: {uri!a}")
    return Path(path)


def safe_suffix(name: str) -> str:
    """Returns the suffix of a name, which some decoders look at, if any file name may have it."""
    found = re.search(r"\.[A-Za-z0-9]{1,8}$", name)
    return found[0] if found else ""
