"""Tells from the files of a checkpoint whether it is whole, and whether it is sound."""

import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from lafp import storage
from lafp.storage import strict_json

_CHUNK_BYTES = 8 << 20
_CARD = re.compile(r"rank-\d{5}\.json")


@dataclass(frozen=True, kw_only=True)
class RankCard:
    """Content of ``rank-00000.json``: the files of one rank."""

    world_size: int
    crc32: dict[str, int]
    """File -> CRC-32."""


def is_whole(folder: str) -> bool:
    """Says whether a checkpoint's folder holds the files of all ranks that wrote it.

    Each rank writes its card last and in one piece. So a card that cannot be read does not mean an
    unfinished checkpoint but a damaged one, which ``damage_of`` finds.
    """
    first = storage.join(folder, card_name(0))
    if not storage.is_file(first):
        return False
    try:
        num_ranks = strict_json.read(RankCard, first).world_size
    except ValueError:
        # The card is damaged. The folder must not pass for an unfinished one, which ``start``
        # deletes.
        return True
    files = storage.patiently(lambda: list(storage.list_files(folder)))
    names = {info.uri.rpartition("/")[2] for info in files}
    # Bounded by the number of files, because a damaged card may name any number of ranks.
    return names.issuperset(card_name(rank) for rank in range(min(num_ranks, len(names) + 1)))


def damage_of(folder: Path, ranks: range) -> str | None:
    """Describes the first damage found in a checkpoint; None if it is sound.

    Args:
        folder: The local folder with its files.
        ranks: The ranks whose files are compared with their checksums. Ranks that did not exist
            are ignored.
    """
    # Other files may lie beside the cards, such as a file manager's copy "rank-00000 2.json".
    found = sorted(path.name for path in folder.iterdir() if _CARD.fullmatch(path.name))
    for number, name in enumerate(found):
        try:
            card = strict_json.loads(RankCard, (folder / name).read_bytes())
        except (ValueError, OSError):
            return f"{name} cannot be read"
        if card.world_size != len(found) or name != card_name(number):
            return f"{name} is of {card.world_size} workers, and there are the files of others"
        for file, expected in card.crc32.items() if number in ranks else ():
            try:
                with (folder / file).open("rb") as opened:
                    is_same = crc32_of(opened) == expected
            except OSError as error:
                return f"{file} cannot be read ({error.strerror or error})"
            except ValueError:  # a flipped bit has put a NUL into the name
                return f"{name} names a file that cannot be"
            if not is_same:
                return f"{file} does not have the checksum that it was written with"
    return None if found else "no list of its files is there"


def card_name(rank: int) -> str:
    """Names the file that lists the files of one rank."""
    return f"rank-{rank:05d}.json"


def crc32_of(file: BinaryIO) -> int:
    """Reads a file to its end and returns its CRC-32."""
    value = 0
    while chunk := file.read(_CHUNK_BYTES):
        value = zlib.crc32(chunk, value)
    return value
