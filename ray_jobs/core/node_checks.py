"""Checks one node for the doctor. The checks run on that node, as a Ray task."""

import importlib
import platform
import re
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files, version
from typing import Literal

import av
import torch

from lafp import storage
from lafp.config import ConfigError
from lafp.confined import missing_protection, missing_when_tried
from lafp.storage import StorageError
from lafp.video.damage import hevc_slices, mjpeg_scans, vp8_partitions, vp9_tiles
from lafp.video.decoders.torchcodec import import_torchcodec

Level = Literal["ok", "warn", "fail"]

NEEDED = ("ray", "torch", "av", "omegaconf")
"""Packages that every job needs, in the same version on all nodes."""
OPTIONAL: dict[str, tuple[str, Level, str]] = {
    "deepspeed": ("train", "warn", "preprocess, collect and view run here, training does not"),
    "decord": ("decord", "ok", "only video_decoder.name=decord needs it"),
    "boto3": ("s3", "ok", "only s3:// needs it"),
}
"""Packages that some jobs need, in the same version on all nodes -> the extra of lafp that brings
them, the level of a finding that they are missing, and what goes without them."""
DECODERS = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "gif")
ENCODERS = ("libx264",)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of one check."""

    level: Level
    what: str
    fix: str = ""
    """Tells the user what to do; empty if nothing is wrong."""


@dataclass(frozen=True, kw_only=True)
class NodeFacts:
    """The results of the checks of one node."""

    host: str
    versions: dict[str, str]
    """Versions of ``python`` and every package; empty for a missing package."""
    num_gpus: int
    """Number of GPUs that torch sees."""
    findings: tuple[Finding, ...]


def look(storage_uri: str, wants_gpu: bool) -> NodeFacts:
    """Checks the node that this runs on.

    Args:
        storage_uri: Folder of all runs, in which a file is written, read and deleted.
        wants_gpu: Whether Ray says that the node has GPUs.
    """
    packages = (*NEEDED, *OPTIONAL)
    versions = {"python": platform.python_version(), **{name: _version(name) for name in packages}}
    findings = [
        *(_missing(name) for name, found in versions.items() if not found),
        *([_deepspeed()] if versions["deepspeed"] else []),
        _codecs(),
        _damage_parsers(),
        *_ffmpegs(),
        _confinement(),
        _gpus(wants_gpu),
        _compiler(),
        _storage(storage_uri),
    ]
    return NodeFacts(
        host=platform.node(),
        versions=versions,
        num_gpus=torch.cuda.device_count(),
        findings=tuple(findings),
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _missing(name: str) -> Finding:
    if name in NEEDED:
        return Finding(
            level="fail",
            what=f"{name} is not installed, which every job needs",
            fix="pip install 'lafp[data]'",
        )
    extra, level, needed_by = OPTIONAL[name]
    return Finding(
        level=level,
        what=f"{name} is not installed: {needed_by} (pip install 'lafp[{extra}]')",
    )


def _deepspeed() -> Finding:
    """Checks DeepSpeed by importing it, because its import looks for compilers and CUDA."""
    try:
        importlib.import_module("deepspeed")
    except Exception as error:  # with a half-installed CUDA, errors of many types come up
        return Finding(
            level="fail",
            what=f"deepspeed does not import: {_first_line(error)}",
            fix="pip install 'lafp[train]' with the versions of constraints.txt; with CUDA, set "
            "CUDA_HOME",
        )
    return Finding(level="ok", what="deepspeed imports")


def _codecs() -> Finding:
    lacking = [
        *(name for name in DECODERS if not _opens(name, "r")),
        *(name for name in ENCODERS if not _opens(name, "w")),
    ]
    if lacking:
        return Finding(
            level="fail",
            what=f"FFmpeg of PyAV lacks {', '.join(lacking)}",
            fix="install av as a wheel (pip install --only-binary av av), not from source",
        )
    return Finding(level="ok", what="FFmpeg of PyAV has every codec that is needed")


def _damage_parsers() -> Finding:
    parsers = {
        "HEVC": hevc_slices.parser(),
        "VP8": vp8_partitions.parser(),
        "VP9": vp9_tiles.parser(),
        "MJPEG": mjpeg_scans.parser(),
    }
    if missing := " and ".join(name for name, parser in parsers.items() if parser is None):
        return Finding(
            level="warn",
            what=f"most damage in {missing} videos goes unnoticed: the parser is not compiled",
            fix="install lafp where there is a C compiler; in a checkout: "
            "python setup.py build_ext --inplace",
        )
    return Finding(
        level="ok", what="the parsers that find damage in HEVC, VP8, VP9 and MJPEG are compiled"
    )


def _ffmpegs() -> Iterator[Finding]:
    """Names the FFmpeg that each video decoder brings or loads: its age says which holes it has."""
    codec = ".".join(map(str, av.library_versions["libavcodec"]))
    bundled = f"FFmpeg {av.ffmpeg_version_info} (libavcodec {codec})"
    yield Finding(level="ok", what=f"video decoder pyav {_version('av')} brings {bundled}")
    # decord tells no version, but its wheel names the file by it.
    for file in files("decord") or () if _version("decord") else ():
        if found := re.match(r"libavcodec-.*\.so\.([0-9.]+)$", file.name):
            what = f"video decoder decord {_version('decord')} brings libavcodec {found[1]}"
            yield Finding(level="ok", what=f"{what}: only for videos that you trust")
    if _version("torchcodec"):
        yield _ffmpeg_of_torchcodec()


def _ffmpeg_of_torchcodec() -> Finding:
    """Names the FFmpeg that torchcodec loads from the system."""
    what = f"video decoder torchcodec {_version('torchcodec')}"
    try:
        versions = import_torchcodec()._core.get_ffmpeg_library_versions()
    except ConfigError:
        return Finding(
            level="warn",
            what=f"{what} finds no FFmpeg of version 4 to 8, or does not fit torch "
            f"{torch.__version__}",
            fix="apt-get install ffmpeg, or use video_decoder.name=pyav, which brings its own",
        )
    codec = ".".join(map(str, versions["libavcodec"]))
    loaded = f"FFmpeg {versions['ffmpeg_version']} (libavcodec {codec})"
    return Finding(level="ok", what=f"{what} loads {loaded} of this system")


def _confinement() -> Finding:
    try:
        tried = missing_when_tried()
    except (OSError, subprocess.SubprocessError) as error:
        return Finding(
            level="fail",
            what=f"the process that decodes videos does not start here: {error}",
            fix="a container runtime whose profile allows capset, Landlock and seccomp, or none "
            "of them",
        )
    # Both, because the kernel says why.
    if missing := missing_protection() or tried:
        return Finding(
            level="warn",
            what=f"the process that decodes videos is not kept from: {', '.join(missing)}",
            fix="Linux 5.13 or newer, and a container runtime whose profile allows Landlock",
        )
    return Finding(level="ok", what="videos are decoded without keys, network and writing")


def _opens(name: str, mode: Literal["r", "w"]) -> bool:
    try:
        av.codec.Codec(name, mode)
    except (av.error.FFmpegError, ValueError):
        return False
    return True


def _gpus(wants_gpu: bool) -> Finding:
    if not wants_gpu:
        return Finding(level="ok", what="no GPU here, and Ray knows of none")
    if not torch.cuda.is_available():
        return Finding(
            level="fail",
            what=f"Ray has GPUs here, torch {torch.__version__} sees none",
            fix="install a CUDA build of torch and a driver that fits it (nvidia-smi says which)",
        )
    # Sums of 64 ones are exact in every precision, TF32 included, so the result must be equal.
    x = torch.ones(64, 64, device="cuda")
    if float((x @ x).sum()) != 64**3:
        return Finding(
            level="fail",
            what="the GPU computes a product of two matrices wrongly",
            fix="take the node out of the cluster, and have the GPU checked",
        )
    names = {torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
    return Finding(level="ok", what=f"{torch.cuda.device_count()} GPUs: {', '.join(sorted(names))}")


def _compiler() -> Finding:
    if shutil.which("c++") or shutil.which("g++"):
        return Finding(level="ok", what="a C++ compiler, for DeepSpeed's ops and torch.compile")
    return Finding(
        level="warn",
        what="no C++ compiler: no optimizer offload, no torch.compile",
        fix="apt-get install g++",
    )


def _storage(uri: str) -> Finding:
    # Every check has a file of its own, because all nodes may write to this folder at once.
    path, text = storage.join(uri, f"doctor-{uuid.uuid4().hex}.txt"), uuid.uuid4().hex
    start = time.monotonic()
    try:
        storage.write_text(path, text)
        found = storage.read_text(path)
        storage.delete(path)
    except (StorageError, OSError) as error:
        return Finding(
            level="fail",
            what=f"cannot write, read and delete in {uri}: {_first_line(error)}",
            fix="check path and rights; for s3://, gs:// and az://, credentials and the bucket or "
            "container; for s3://, AWS_ENDPOINT_URL too",
        )
    if found != text:
        return Finding(
            level="fail",
            what=f"{uri} gives back other bytes than were written",
            fix="name another folder or bucket with --storage, and have this one checked",
        )
    return Finding(
        level="ok", what=f"{uri}: written, read, deleted in {time.monotonic() - start:.2f} s"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0]


def write_mark(uri: str, text: str) -> None:
    """Writes a file that the other nodes must see."""
    storage.write_text(uri, text)


def sees_mark(uri: str, text: str) -> bool:
    """Says whether this node sees the file that another node wrote."""
    return storage.is_file(uri) and storage.read_text(uri) == text
