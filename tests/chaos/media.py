"""Gives the decoding process broken videos: mp4, mkv, webm and ts, changed in their structure.

``python -m tests.chaos.media --inputs 1000 --seed 1`` counts what became of them. It fails if a
video hangs, takes more memory than the limit, loses a second, or ends the job.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

from data_pipelines.preprocess.clip.probe import LimitsConfig
from data_pipelines.preprocess.faults import VideoProgress
from data_pipelines.preprocess.rejects import RejectRow
from data_pipelines.preprocess.rows import EncodedClip, VideoItem, rows_that_count
from data_pipelines.preprocess.sandbox.sandbox import Sandbox
from lafp.http.host_gate import HostGate
from tests.chaos.mutations import EDGES, mutated_bytes
from tests.chaos.targets.sources import CFG
from tests.synthetic_video import moving_square, write_video

TIMEOUT_S, GRACE_S = 30.0, 30.0
MEMORY_BYTES = 1 << 30
_SEEDS = (
    ("h264.mp4", "libx264"),
    ("hevc.mp4", "libx265"),
    ("h264.mkv", "libx264"),
    ("vp8.webm", "libvpx"),
    ("vp9.webm", "libvpx-vp9"),
    ("h264.ts", "libx264"),
)
_BOXES = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"elst", b"stsz", b"stts", b"ctts")
_BOXES += (b"stco", b"stsc", b"stss", b"mdhd", b"mvhd", b"tkhd", b"avcC", b"hvcC", b"mdat", b"stsd")
# EBML ids: segment, cluster, block, block group, track, cues, duration, codec data, seek head.
_IDS = (b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75", b"\xa3", b"\xa0", b"\xae", b"\x1c\x53\xbb\x6b")
_IDS += (b"\x44\x89", b"\x63\xa2", b"\x11\x4d\x9b\x74", b"\xe7", b"\x2a\xd7\xb1", b"\xb0", b"\xba")


def _at_marks(rng: Random, data: bytes, marks: tuple[bytes, ...], reach: int) -> bytes:
    """Writes an edge of a number before or behind one of the marks."""
    found = [at for mark in marks if (at := data.find(mark)) >= 0]
    if not found:
        return mutated_bytes(rng, data)
    size = rng.choice((1, 2, 4, 4, 8))
    at = max(0, rng.choice(found) + rng.randrange(-4, reach))
    return data[:at] + (rng.choice(EDGES) % 256**size).to_bytes(size, "big") + data[at + size :]


def _packet(rng: Random, data: bytes) -> bytes:
    """Changes a header of a packet of a transport stream: id, counter, adaptation field."""
    at = 188 * rng.randrange(max(1, len(data) // 188)) + rng.choice((0, 1, 2, 3, 4, 5))
    return data[:at] + bytes((rng.randrange(256),)) + data[at + 1 :]


def mutated_video(rng: Random, name: str, data: bytes) -> bytes:
    """Changes structure, or any bytes: most of them are those of coded pictures."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        if rng.random() < 0.4:
            data = mutated_bytes(rng, data, most=3)
        elif name.endswith(".mp4"):
            data = _at_marks(rng, data, _BOXES, 60)
        elif name.endswith(".ts"):
            data = _packet(rng, data)
        else:
            data = _at_marks(rng, data, _IDS, 12)
    return data


@dataclass
class Outcome:
    """What became of the videos."""

    num_inputs: int = 0
    num_with_clips: int = 0
    num_crashes: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0
    most_bytes: int = 0
    faults: dict[int, str] = field(default_factory=dict)


def decode(numbers: range, seed: int, folder: Path) -> Outcome:
    """Gives broken videos to one sandbox, one after the other."""
    frames = moving_square(12, 64, 64)
    seeds = {}
    for name, codec in _SEEDS:
        options = {"x265-params": "log-level=none"} if codec == "libx265" else {"g": "6"}
        path = write_video(folder / name, frames, codec=codec, options=options)
        seeds[name] = path.read_bytes()
    limits = LimitsConfig(max_memory_bytes=MEMORY_BYTES, timeout_s=TIMEOUT_S, max_pixels=2**22)
    found = Outcome()
    with Sandbox(replace(CFG, labels=None, limits=limits), HostGate()) as sandbox:
        for number in numbers:
            rng = Random(f"{seed} {number}")
            name = rng.choice(list(seeds))
            path = folder / f"broken.{name.rpartition('.')[2]}"
            path.write_bytes(mutated_video(rng, name, seeds[name]))
            begin_s = time.monotonic()
            for fault in _faults(sandbox, path, found):
                found.faults.setdefault(number, f"{name}: {fault}")
            took_s = time.monotonic() - begin_s
            found.slowest_s = max(found.slowest_s, took_s)
            if took_s > TIMEOUT_S + GRACE_S:
                found.faults.setdefault(number, f"{name}: {took_s:.0f} s")
            found.num_inputs += 1
    return found


def _faults(sandbox: Sandbox, path: Path, found: Outcome) -> Iterator[str]:
    item = VideoItem(uri=str(path), num_bytes=path.stat().st_size, split=None)
    rows = rows_that_count(sandbox.rows(item))
    progress = VideoProgress()
    for row in rows:
        progress.add(row)
        if isinstance(row, RejectRow):
            found.reasons[row.reason] += 1
            if row.reason == "failed":
                yield row.detail
    found.num_with_clips += any(isinstance(row, EncodedClip) for row in rows)
    found.num_crashes += any(getattr(row, "reason", "") == "killed_worker" for row in rows)
    if progress.video is None:
        yield "no row of the video"
    elif what := progress.uneven():
        yield what
    if sandbox._process is not None and sandbox._process.poll() is None:
        status = Path(f"/proc/{sandbox._process.pid}/status").read_text()
        (data,) = (line for line in status.splitlines() if line.startswith("VmData:"))
        found.most_bytes = max(found.most_bytes, num_bytes := int(data.split()[1]) * 1024)
        if num_bytes > MEMORY_BYTES:
            yield f"{num_bytes} bytes of memory"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lafp-fuzz-") as folder:
        numbers = range(args.first, args.first + args.inputs)
        found = decode(numbers, args.seed, Path(folder))
    print(
        f"{found.num_inputs} videos, {found.num_with_clips} with clips, {found.num_crashes} "
        f"crashes, slowest {found.slowest_s:.1f} s, most memory {found.most_bytes >> 20} MiB"
    )
    print(dict(found.reasons.most_common()))
    for number, fault in found.faults.items():
        print(f"  {number}: {fault}")
    return int(bool(found.faults))


if __name__ == "__main__":
    sys.exit(main())
