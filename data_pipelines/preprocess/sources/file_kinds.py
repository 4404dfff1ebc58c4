"""Tells a file's kind by its name and first bytes, without the machine's table of MIME types."""

from contextlib import suppress
from urllib.parse import unquote, urlsplit

from lafp import storage

LABELS_SUFFIX = ".npz"
_TFRECORD = ".tfrecord"
_TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
# Files with these suffixes are videos, or claim to be.
_VIDEO_KINDS = (
    ".3g2 .3gp .amv .apng .asf .avi .divx .dv .f4v .flv .gif .h263 .h264 .264 .h265 .265 .hevc"
    " .ivf .m1v .m2p .m2ts .m2v .m4v .mjpeg .mjpg .mk3d .mkv .mov .mp4 .mpe .mpeg .mpg .mts .mxf"
    " .nut .obu .ogm .ogv .qt .rm .rmvb .ts .vob .webm .wmv .wtv .y4m"
)
_VIDEO_SUFFIXES = set(_VIDEO_KINDS.split())
_OTHER_KINDS = {
    "text or metadata": ".txt .json .jsonl .ndjson .csv .tsv .xml .yaml .yml .toml .ini .cfg .md"
    " .rst .log .html .htm .pdf .doc .docx .srt .vtt .ass .ssa .sub .idx .nfo .lrc .url .py .ipynb"
    " .sh .js .css .bib .tex .parquet .arrow .feather .lock .sqlite .db",
    "a checksum or signature": ".md5 .sha1 .sha256 .sha512 .crc .sfv .sig .asc .par2 .torrent",
    "a still picture": ".jpg .jpeg .jpe .png .bmp .tif .tiff .heic .heif .svg .ico .psd .pgm .ppm"
    " .exr .hdr .dng .raw .cr2 .nef .xcf .jxl .jp2",
    "sound": ".mp3 .wav .flac .m4a .aac .opus .wma .aif .aiff .mid .midi .mka .oga .ac3 .amr",
    "an array or a model": ".npy .pt .pth .ckpt .safetensors .onnx .pb .mat .pkl .pickle .index"
    " .msgpack",
    "a font": ".ttf .otf .woff .woff2",
}
_OTHER_SUFFIXES = {
    suffix: kind for kind, suffixes in _OTHER_KINDS.items() for suffix in suffixes.split()
}
# Kinds of files by their first bytes, for the message about a file that is not a video.
_MAGIC = (
    (b"PK\x03\x04", "a ZIP archive: unpack it, or pack its files as .tar"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it, or pack its files as .tar"),
    (b"Rar!", "a RAR archive: unpack it, or pack its files as .tar"),
    (b"\x1f\x8b", "compressed with gzip: unpack it; only tars may be compressed"),
    (b"BZh", "compressed with bzip2: unpack it; only tars may be compressed"),
    (b"\xfd7zXZ", "compressed with xz: unpack it; only tars may be compressed"),
    (b"\x28\xb5\x2f\xfd", "compressed with Zstandard: unpack it"),
    (b"\x89HDF", "an HDF5 file: set labels to read it"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"%PDF", "a PDF document"),
    (b"version https://git-lfs", "a Git LFS pointer: git lfs pull fetches the file"),
    (b"#EXTM3U", "a playlist: list the videos in it instead"),
    (b"\x00\x05\x16\x07", "an AppleDouble file, which macOS leaves beside others"),
    (b"\x7fELF", "a program"),
)


def file_name(uri: str) -> str:
    """Returns the last part of a URI, for a web address without query and fragment."""
    if storage.is_http(uri):
        with suppress(ValueError):  # a member of a tar may have such a name: it is no address
            uri = unquote(urlsplit(uri).path)
    return uri.rpartition("/")[2]


def suffix_of(uri: str) -> str:
    """Returns the suffix of a URI's name in lower case, e.g. ``.mp4``; empty without one."""
    _, dot, suffix = file_name(uri).lower().rpartition(".")
    return f"{dot}{suffix}" if dot and suffix.strip() else ""


def kind_of_name(uri: str) -> str:
    """Returns the suffix of a name. Suffixes that differ only in a number are one kind."""
    return _TFRECORD if _TFRECORD in file_name(uri).lower() else suffix_of(uri)


def is_tar(uri: str) -> bool:
    """Says whether the file's name is that of a tar, perhaps a compressed one."""
    return file_name(uri).lower().endswith(_TAR_SUFFIXES)


def is_video(uri: str) -> bool:
    """Says whether the file's name is that of a video. Other files may still hold videos."""
    return suffix_of(uri) in _VIDEO_SUFFIXES


def other_kind(uri: str) -> str:
    """Returns the kind of a file whose name says that it is not a video; empty for all others."""
    return _OTHER_SUFFIXES.get(suffix_of(uri), "")


def labeled_format(uri: str) -> str:
    """Names the reader in ``LABELED_SOURCES`` of a file that holds whole episodes, by its name."""
    if _TFRECORD in file_name(uri).lower():
        return "rlds"
    return "hdf5" if suffix_of(uri) in (".hdf5", ".h5") else ""


def kind_of_content(head: bytes) -> str:
    """Tells the kind of a file that is not a video by its first bytes; empty if unknown."""
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        # The second bit of VP8X's flags says that there is an animation.
        is_animated = head[12:16] == b"VP8X" and len(head) > 20 and bool(head[20] & 2)
        return "an animated WebP, which FFmpeg cannot read" if is_animated else "a WebP picture"
    # Many hosts answer with a page instead of the video, for instance to ask for a login.
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "a web page"
    if not head:
        return "an empty file"
    # Text has no control characters below the tab.
    is_text = b"\0" not in head and sum(byte < 9 for byte in head) == 0
    return "text" if is_text and head.isascii() else ""
