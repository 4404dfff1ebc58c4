"""Ends a study whose stages make no progress, with an error that says what waits for what."""

import time
from collections.abc import Callable, Iterable, Mapping

from lafp import storage
from lafp.runs.progress import duration
from lafp.runs.run_dir import StageDir
from lafp.storage import UnreachableError
from ray_jobs.core.job import JobError


class Watchdog:
    """Raises once no stage has written anything for ``timeout_s``.

    Progress is any change in a running stage's folder: its log, its metrics, a checkpoint, a shard.

    Args:
        timeout_s: Must be longer than the longest time without output of a sound stage, e.g. while
            the cluster grows, an evaluation runs or a checkpoint is uploaded.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._seen: object = None
        self._seen_at = self._looked_at = time.monotonic()

    def check(self, stages_running: Callable[[], Mapping[str, StageDir]]) -> None:
        """Looks at the folders, at most ten times per ``timeout_s``.

        While storage does not answer, nothing counts as missing progress.

        Args:
            stages_running: Returns the running stages: stage in words -> its folder.

        Raises:
            JobError: There is no progress. The message says what waits for what.
        """
        now = time.monotonic()
        if now - self._looked_at < self._timeout_s / 10:
            return
        self._looked_at, running = now, stages_running()
        try:
            seen = {
                words: [(info.uri, info.num_bytes) for info in storage.list_files(stage.uri)]
                for words, stage in running.items()
            }
        except UnreachableError:
            # The stages wait for storage themselves, and can write nothing until it answers.
            self._seen_at = now
            return
        if seen != self._seen:
            self._seen, self._seen_at = seen, now
        elif running and now - self._seen_at > self._timeout_s:
            raise JobError(
                f"No progress for {duration(now - self._seen_at)}.\n{what_waits(running)}\n"
                "Give Ray more CPUs or GPUs, run fewer stages at a time (max_concurrent), or raise "
                "stall_timeout_min. The same command goes on from here."
            )


def what_waits(running: Mapping[str, StageDir]) -> str:
    """Lists the running stages, the cluster's free resources, and requests that it cannot place."""
    import ray  # not at the top of the file: a study of one process may not have it
    from ray.util import placement_group_table

    total, free = ray.cluster_resources(), ray.available_resources()
    held = ", ".join(
        f"{free.get(name, 0):g} of {total[name]:g} {name}s free"
        for name in ("CPU", "GPU")
        if name in total
    )
    lines = [f"  running: {words} ({stage.path('log.txt')})" for words, stage in running.items()]
    lines.append(f"  cluster: {held}")
    lines += [
        f"  waits for {_bundles(group['bundles'].values())}: {group['name'] or 'a training job'}"
        for group in placement_group_table().values()
        if group["state"] in ("PENDING", "RESCHEDULING")
    ]
    return "\n".join(lines)


def _bundles(bundles: Iterable[Mapping[str, float]]) -> str:
    wanted = (", ".join(f"{n:g} {name}" for name, n in bundle.items()) for bundle in bundles)
    return " and ".join(wanted)
