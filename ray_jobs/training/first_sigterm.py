"""Acts on the first SIGTERM of a process, and leaves the second one to end it."""

import signal
import threading
from collections.abc import Callable
from typing import Any


def on_first_sigterm(act: Callable[[], None], then: Any) -> Callable[[], None]:
    """Makes the first SIGTERM call ``act``, in a thread, and installs ``then`` for the next one.

    It must be called in the main thread. ``act`` runs in a thread of its own, because a signal
    handler may interrupt any library at any point.

    Returns:
        A function, also for the main thread, that puts the previous handler back.
    """
    previous = signal.getsignal(signal.SIGTERM)
    is_signalled, is_over = threading.Event(), threading.Event()

    def wait() -> None:
        is_signalled.wait()
        if not is_over.is_set():
            act()

    def handle(*_: object) -> None:
        signal.signal(signal.SIGTERM, then)
        is_signalled.set()

    def restore() -> None:
        signal.signal(signal.SIGTERM, previous)
        # In this order: the thread wakes up, finds that the block is over, and does not act.
        is_over.set()
        is_signalled.set()

    threading.Thread(target=wait, name="on-sigterm", daemon=True).start()
    signal.signal(signal.SIGTERM, handle)
    return restore
