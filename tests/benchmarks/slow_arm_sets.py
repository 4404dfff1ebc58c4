"""Writes labeled episodes of a slow arm: Meta-World at 256 px and 20 frames/s, little motion.

MUJOCO_GL=osmesa python -m tests.benchmarks.slow_arm_sets FOLDER [drawer button reach crawl]

Each set has 40 episodes: ``x.mp4`` beside ``x.npz``, or robomimic's HDF5 for ``reach``. The
expert's actions are scaled down, and smooth noise is added to them, so that the state does not tell
them. docs/results.md says what the default config for labeled data makes of them.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from lafp.envs.metaworld import Metaworld, MetaworldConfig
from lafp.video import EncodeConfig, encode_clip

NUM_EPISODES, FPS = 40, 20
NOISE_STD, NOISE_DECAY = 0.3, 0.8


@dataclass(frozen=True, kw_only=True)
class SlowArm:
    """One set."""

    task: str
    speed: float
    """Factor of the expert's actions."""
    num_steps: int = 60


SETS = {
    "drawer": SlowArm(task="drawer-open-v3", speed=0.15, num_steps=100),
    "button": SlowArm(task="button-press-topdown-v3", speed=0.04),
    "reach": SlowArm(task="reach-v3", speed=0.1),
    "crawl": SlowArm(task="reach-v3", speed=0.015),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("sets", nargs="*", default=list(SETS))
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    for name in args.sets:
        cfg = MetaworldConfig(task=SETS[name].task, size_px=256, action_repeat=4, camera="corner2")
        env = Metaworld(cfg)
        for number in range(NUM_EPISODES):
            frames, actions, states = _episode(env, SETS[name], number)
            if name == "reach":
                _add_to_hdf5(args.folder / "reach.hdf5", number, frames, actions, states)
            else:
                _write_files(args.folder / name, number, frames, actions, states)
            print(f"{name}: {number + 1}/{NUM_EPISODES}", flush=True)


def _episode(
    env: Metaworld, slow: SlowArm, number: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns frames uint8 [T + 1, H, W, 3], actions float32 [T, A], states float32 [T + 1, 7]."""
    rng, episode = np.random.default_rng(1000 + number), env.start(number + 1)
    frames, actions, states = [episode.frame()], [], [episode.state()[:7]]
    noise = np.zeros(env.action_spec.dim)
    for _ in range(slow.num_steps):
        noise = NOISE_DECAY * noise + rng.normal(0, NOISE_STD, len(noise))
        expert = np.clip(episode.expert(), -1, 1)
        action = np.clip(slow.speed * (expert + noise), -1, 1)
        action[3] = expert[3]  # the gripper
        moved = episode.step(action)
        actions.append(action)
        frames.append(episode.frame())
        states.append(episode.state()[:7])
        if moved.has_succeeded:
            break
    return np.stack(frames), np.array(actions, np.float32), np.array(states, np.float32)


def _write_files(
    folder: Path, number: int, frames: np.ndarray, actions: np.ndarray, states: np.ndarray
) -> None:
    folder.mkdir(exist_ok=True)
    video = encode_clip(frames, FPS, EncodeConfig())
    (folder / f"episode_{number:03d}.mp4").write_bytes(video)
    rows = np.concatenate([actions, actions[-1:]])  # no frame follows the last one
    np.savez(folder / f"episode_{number:03d}.npz", action=rows, state=states)


def _add_to_hdf5(
    path: Path, number: int, frames: np.ndarray, actions: np.ndarray, states: np.ndarray
) -> None:
    with h5py.File(path, "a") as file:
        demo = file.create_group(f"data/demo_{number}")
        demo["actions"] = actions
        demo["obs/robot0_eef_pos"] = states[:-1]
        demo.create_dataset("obs/agentview_image", data=frames[:-1], compression="gzip")


if __name__ == "__main__":
    main()
