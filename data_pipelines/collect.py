"""Renders demonstrations of an environment's expert to mp4, in Ray tasks.

``videos/`` looks like any corpus of videos: ``episode_000123.mp4``, no labels. ``labeled/`` and
``labeled_val/`` hold a few other episodes, each with its actions in ``episode_000123.npz``. If the
config asks for them, ``labeled_val/unseen/`` holds held-out episodes with appearances that training
never shows, and ``masks/`` repeats these folders with videos of the agent's pixels. An episode
depends on its seed only, and its seed on (``seed``, subset, number) only: the files do not depend
on the number of workers or on interruptions.
"""

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from data_pipelines.on_ray.tasks import run_tasks
from lafp import storage
from lafp.config import Choice, ConfigError, choice
from lafp.config.ranges import check_at_least
from lafp.data.labels import UNSEEN
from lafp.envs import ENVS
from lafp.envs.base import VectorEnv, episode_seeds
from lafp.evaluate.acting.rollouts import Expert, Recording, RolloutResult, rollout
from lafp.storage import strict_json
from lafp.storage.map_ahead import map_ahead
from lafp.storage.tables import write_rows
from lafp.video import EncodeConfig, encode_clip

Subset = Literal["videos", "labeled", "labeled_val", "unseen"]


@dataclass(frozen=True, kw_only=True)
class CollectConfig:
    """Says which demonstrations to render."""

    env: Choice = choice(ENVS)
    labeled_env: Choice | None = choice(ENVS, default=None)
    """The environment of the labeled training episodes, if it differs from that of the videos:
    labels often come from other scenes than the footage and the deployment. null takes ``env``."""
    labeled_val_env: Choice | None = choice(ENVS, default=None)
    """The environment of the held-out labeled episodes, if it differs. null takes ``env``."""
    unseen_env: Choice | None = choice(ENVS, default=None)
    """The environment of as many held-out labeled episodes again, for example with background
    videos that training never saw. They are probed beside the others. null: there are none."""
    num_episodes: int = 700
    """Number of unlabeled episodes, which are the corpus of videos."""
    num_labeled_episodes: int = 15
    """Number of episodes with actions to train on."""
    num_labeled_val_episodes: int = 30
    """Number of episodes with actions that are held out from all training."""
    drop_failed: bool = False
    """Leaves out, and counts, episodes in which the expert fails. The environment's task must
    report success."""
    draw_masks: bool = False
    """Also writes which pixels show the agent, for `masks` of preprocess. Each frame is then drawn
    twice. dmc, metaworld and slalom can tell."""
    seed: int = 0
    episodes_per_task: int = 25
    """Number of episodes that one Ray task renders side by side. An interruption loses at most this
    many per task."""
    encode: EncodeConfig = field(
        default_factory=lambda: EncodeConfig(crf=10, pixel_format="yuv444p")
    )
    """Near lossless with colour at full resolution, because preprocessing encodes the frames
    again."""

    def __post_init__(self) -> None:
        if self.num_episodes < 1 or self.episodes_per_task < 1:
            raise ValueError(
                "num_episodes and episodes_per_task must be at least 1, "
                f"got {self.num_episodes} and {self.episodes_per_task}."
            )
        check_at_least(self, 0, "num_labeled_episodes", "num_labeled_val_episodes", "seed")

    def env_of(self, subset: Subset) -> Choice:
        """Returns the config of the environment in which a subset is rendered."""
        own = {
            "labeled": self.labeled_env,
            "labeled_val": self.labeled_val_env,
            "unseen": self.unseen_env,
        }.get(subset)
        return self.env if own is None else own

    def num_of(self, subset: Subset) -> int:
        """Returns the number of episodes of one subset."""
        return {
            "videos": self.num_episodes,
            "labeled": self.num_labeled_episodes,
            "labeled_val": self.num_labeled_val_episodes,
            "unseen": self.num_labeled_val_episodes if self.unseen_env is not None else 0,
        }[subset]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Holds the work of one Ray task: the episodes ``first .. last - 1`` of one subset."""

    subset: Subset
    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first

    @property
    def folder(self) -> str:
        """Returns the folder of the episodes, below the stage's."""
        return f"labeled_val/{UNSEEN}" if self.subset == "unseen" else self.subset

    def record_uri(self, uri: str) -> str:
        """Returns the URI of the ``EpisodeRecord``s' file, which exists once the batch is done."""
        return storage.join(uri, "batches", f"{self.subset}-{self.first:06d}-{self.last:06d}.json")


@dataclass(frozen=True, kw_only=True)
class EpisodeRecord:
    """Holds one row of ``episodes.parquet``."""

    subset: Subset
    episode: int
    seed: int
    num_frames: int
    success: bool | None
    """None where the environment's task does not report success."""
    episode_return: float | None = None
    """None where the environment gave a reward that is not finite."""
    modes: list[int]
    """The way taken at each fork of the task, -1 where undecided."""
    num_bytes: int
    """Size of the mp4; 0 if the episode was dropped."""
    task: str | None = None
    """The episode's task, where the environment has several."""
    is_dropped: bool = False
    """Whether the episode was left out because the expert failed."""


def batches(cfg: CollectConfig) -> list[Batch]:
    """Lists all work, labeled episodes first: they are few, and every later stage needs them."""
    return list(_batches(cfg))


def _batches(cfg: CollectConfig) -> Iterator[Batch]:
    subsets: tuple[Subset, ...] = ("labeled", "labeled_val", "unseen", "videos")
    for subset in subsets:
        num = cfg.num_of(subset)
        for first in range(0, num, cfg.episodes_per_task):
            yield Batch(subset=subset, first=first, last=min(num, first + cfg.episodes_per_task))


def collect(cfg: CollectConfig, uri: str) -> dict[str, object]:
    """Renders the episodes that are missing below ``uri``, then writes ``episodes.parquet``.

    Needs Ray to be initialized.

    Args:
        cfg: The job's config.
        uri: Folder of the stage, local or S3.

    Returns:
        The stage's summary.
    """
    work = batches(cfg)
    missing = [batch for batch in work if not storage.is_file(batch.record_uri(uri))]
    num_done = sum(map(len, work)) - sum(map(len, missing))
    calls = [(cfg, batch, uri) for batch in missing]
    sizes = [len(batch) for batch in missing]
    for _ in run_tasks(
        render_batch, calls, sizes=sizes, title="collect", unit="episodes", num_done=num_done
    ):
        pass
    records = [
        record
        for batch in work
        for record in strict_json.read(list[EpisodeRecord], batch.record_uri(uri))
    ]
    write_rows(storage.join(uri, "episodes.parquet"), EpisodeRecord, records)
    kept = [record for record in records if not record.is_dropped]
    counts = Counter(record.subset for record in kept)
    return {
        "num_episodes": counts["videos"],
        "num_labeled_episodes": counts["labeled"],
        "num_labeled_val_episodes": counts["labeled_val"],
        "num_unseen_episodes": counts["unseen"],
        "num_dropped": len(records) - len(kept),
        "num_frames": sum(record.num_frames for record in kept),
        "num_bytes": sum(record.num_bytes for record in records),
        **_outcomes(records),
        "mean_frames": float(np.mean([record.num_frames for record in records])),
    }


def render_batch(cfg: CollectConfig, batch: Batch, uri: str) -> None:
    """Renders and writes one batch, its record last, so that a batch is complete or absent."""
    env_config = cfg.env_of(batch.subset)
    env = ENVS.build(env_config)
    # An episode's seed depends on its number, so that batches of any size hold the same episodes.
    seeds = episode_seeds(env, cfg.seed, batch.subset, batch.first, batch.last)
    result = rollout(env, Expert(env), seeds, num_recorded=len(seeds), has_masks=cfg.draw_masks)
    if cfg.drop_failed and result.success is None:
        raise ConfigError(
            f"drop_failed: {env.task} does not report success. Set drop_failed=false."
        )
    episodes = _encode_episodes(cfg, batch, uri, env, result)
    # Each write waits for the disk or S3, so several run while the next episodes are encoded.
    strict_json.write(batch.record_uri(uri), list(map_ahead(_write_episode, episodes)))


def _encode_episodes(
    cfg: CollectConfig, batch: Batch, uri: str, env: VectorEnv, result: RolloutResult
) -> Iterator[tuple[EpisodeRecord, dict[str, bytes]]]:
    """Yields the record of each episode, and its files by URI: none if it is dropped."""
    successes = result.successes()
    for n, recording in enumerate(result.recordings):
        name = f"episode_{batch.first + n:06d}"
        stem = storage.join(uri, batch.folder, name)
        is_dropped = cfg.drop_failed and not successes[n]
        returned = result.episode_return[n]
        files: dict[str, bytes] = {}
        if not is_dropped:
            if batch.subset != "videos":
                files[f"{stem}.npz"] = _labels(recording, result.modes[n], env)
            if recording.mask is not None:
                masks_uri = storage.join(uri, "masks", batch.folder, f"{name}.mp4")
                files[masks_uri] = _mask_video(recording.mask, env.fps)
            files[f"{stem}.mp4"] = encode_clip(recording.frames, env.fps, cfg.encode)
        record = EpisodeRecord(
            subset=batch.subset,
            episode=batch.first + n,
            seed=int(result.seeds[n]),
            num_frames=len(recording.frames),
            success=successes[n],
            episode_return=float(returned) if np.isfinite(returned) else None,
            modes=result.modes[n].tolist(),
            num_bytes=len(files.get(f"{stem}.mp4", b"")),
            task=result.tasks[n] if result.tasks else None,
            is_dropped=is_dropped,
        )
        yield record, files


def _write_episode(episode: tuple[EpisodeRecord, dict[str, bytes]]) -> EpisodeRecord:
    record, files = episode
    for uri, data in files.items():
        storage.write_bytes(uri, data)
    return record


def _outcomes(records: Sequence[EpisodeRecord]) -> dict[str, float]:
    """Returns the experts' success rate and mean return, each if known."""
    found = {
        "success": [float(r.success) for r in records if r.success is not None],
        "mean_return": [r.episode_return for r in records if r.episode_return is not None],
    }
    return {name: float(np.mean(values)) for name, values in found.items() if values}


def _mask_video(mask: np.ndarray, fps: float) -> bytes:
    """Encodes masks, bool [T, H, W], white on black and without loss."""
    pixels = np.repeat(np.where(mask, 255, 0).astype(np.uint8)[..., None], 3, axis=3)
    return encode_clip(pixels, fps, EncodeConfig(crf=0, pixel_format="yuv444p"))


def _labels(recording: Recording, modes: np.ndarray, env: VectorEnv) -> bytes:
    """Encodes the labels: one row per frame. The last action is zero, as no frame follows it."""
    spec = env.action_spec
    no_action = np.zeros((1, *recording.actions.shape[1:]), recording.actions.dtype)
    arrays = {
        "action": np.concatenate([recording.actions, no_action]),
        "state": recording.state,
        "mode": modes,
    }
    if recording.action_noise is not None:
        arrays["action_noise"] = np.concatenate([recording.action_noise, no_action])
    if recording.condition is not None:
        arrays["condition"] = recording.condition
    if not spec.is_discrete:
        arrays |= {
            "action_low": np.array(spec.low, np.float32),
            "action_high": np.array(spec.high, np.float32),
        }
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()
