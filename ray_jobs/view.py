"""Look through clips, rejects and near-duplicates of a run in the browser.

lafp view runs/mine
lafp view s3://bucket/runs/mine/shards/videos --no-browser
lafp view runs/mine --rrd clip.rrd --clip CLIP_ID

It opens a page that this machine alone serves, without Ray and without the network, and changes
nothing. Ctrl-C ends it. From another machine: ssh -L PORT:127.0.0.1:PORT, with --port PORT.
"""

import argparse
import os
import signal
import webbrowser
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from html import escape
from pathlib import Path

from lafp import storage
from lafp.config import ConfigError
from lafp.storage.temporary import TemporaryFolder
from ray_jobs.core.cli import described_parser, exit_codes
from ray_jobs.core.early_checks import check_installed, storage_uri


def parse() -> argparse.Namespace:
    """Parses the command line. Ends the process if it is wrong."""
    parser = described_parser("lafp view", __doc__)
    parser.add_argument(
        "path", metavar="SHARDS_OR_RUN", help="folder or URI of a shard set or of a run"
    )
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    parser.add_argument("--no-browser", action="store_true", help="only print the address")
    parser.add_argument(
        "--rrd",
        metavar="FILE",
        help="write one clip with its latents and actions for Rerun (extra rerun), and end",
    )
    parser.add_argument("--clip", metavar="CLIP_ID", help="the clip of --rrd (default: the first)")
    args = parser.parse_args()
    with exit_codes():
        check_installed("view", "data")
        if args.clip and not args.rrd:
            raise ConfigError(
                "--clip names the clip that --rrd writes, and --rrd is missing. Add --rrd FILE, or "
                "leave --clip out."
            )
        if args.rrd:
            args.rrd = storage_uri(args.rrd, "--rrd")
        if not 0 <= args.port < 2**16:
            raise ConfigError(f"--port is {args.port}, expected 1 to 65535, or 0 for a free one.")
    return args


def main() -> None:
    """Serves the page until it is interrupted."""
    args = parse()
    # A terminal that closes, or a service manager, ends it as Ctrl-C does.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, signal.default_int_handler)
    with exit_codes(), ExitStack() as stack:
        if args.rrd:
            print(write_recording(args.path, args.clip, args.rrd, stack))
            return
        try:
            serve(storage.absolute(storage.uri_of(args.path)), args.port, args.no_browser, stack)
        except KeyboardInterrupt:
            print("\nStopped.")


def write_recording(path: str, clip_id: str | None, out: str, stack: ExitStack) -> str:
    """Writes one clip as a recording of Rerun. Returns what to tell the user."""
    from lafp.view import rerun_file
    from lafp.view.viewed_sets import open_sets

    rerun_file.check_installed()
    try:
        sets = open_sets(storage.absolute(storage.uri_of(path)), stack)
        return f"{rerun_file.write_recording(sets, clip_id, out)}\nrecording: {out}"
    except (ValueError, PermissionError) as error:  # a damaged file names itself
        raise ConfigError(str(error)) from None


def serve(uri: str, port: int, no_browser: bool, stack: ExitStack) -> None:
    """Opens the sets at ``uri``, prints the address and serves the page."""
    from data_pipelines.preprocess.rejects import REASONS
    from lafp.view.answers import Answers
    from lafp.view.server import ViewServer
    from lafp.view.viewed_sets import open_sets

    try:
        sets = open_sets(uri, stack)
    except (ValueError, PermissionError) as error:  # a damaged file names itself
        raise ConfigError(str(error)) from None
    title = uri.rstrip("/").rpartition("/")[2]
    with ViewServer(Answers(sets, title, REASONS), port) as server:
        print(f"{uri}: {', '.join(each.name for each in sets)}")
        print(f"Open {server.url}\nCtrl-C ends it.", flush=True)
        if not no_browser and _has_display():
            stack.enter_context(_browser(server.url))
        server.serve_forever()


def _has_display() -> bool:
    # Without one, Python would start a browser for text in this terminal.
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


@contextmanager
def _browser(url: str) -> Iterator[None]:
    """Opens the page in the user's browser."""
    # Every user can read the arguments of a process. So the browser gets the name of a file that
    # only this user can read, and finds the address with its token in there.
    with TemporaryFolder() as folder:
        path = Path(folder) / "open.html"
        path.write_text(f'<meta http-equiv="refresh" content="0; url={escape(url)}">')
        webbrowser.open(path.as_uri())
        yield


if __name__ == "__main__":
    main()
