"""Measures the action error of policy and decoder together, on held-out episodes."""

# Shape letters in this file: B clips, T frames, A true action.

from collections.abc import Iterable

import numpy as np
import torch

from lafp.evaluate.acting.rollouts import Actor, observation
from lafp.losses.action import action_errors
from lafp.types import ActionSpec, ClipBatch


def open_loop_errors(
    actor: Actor, batches: Iterable[ClipBatch], spec: ActionSpec, seed: int = 0
) -> dict[str, float]:
    """Shows an actor the demonstrations' own frames, and compares its actions with theirs.

    Every transition counts, the first of an episode included. A policy that keeps several modes
    may rightly choose another way than the demonstrator, and pays for it here.

    Args:
        actor: The actor as it is deployed, with its frame stack and noise.
        batches: Labeled clips, on the CPU.
        spec: Describes an action.
        seed: Seed of the actor's noise.

    Returns:
        ``action_mse`` and ``action_r2``, or ``action_accuracy`` (see ``action_errors``), and
        ``num_transitions``.
    """
    predicted, true = [], []
    for number, batch in enumerate(batches):
        assert batch.true_action is not None
        frames_BTHWC = batch.frames.numpy()
        actor.reset(len(frames_BTHWC), seed + number)
        for t in range(frames_BTHWC.shape[1] - 1):
            has_next_B = (batch.num_frames > t + 1).numpy()
            seen = {"image": frames_BTHWC[:, t]}
            if batch.state is not None:
                seen["state"] = batch.state[:, t].numpy()
            if batch.condition is not None:
                seen["condition"] = batch.condition.numpy()
            actions = np.asarray(actor.act(observation(actor, seen)))
            predicted.append(actions[has_next_B])
            true.append(batch.true_action[:, t].numpy()[has_next_B])
    predicted_NA, true_NA = np.concatenate(predicted), np.concatenate(true)
    errors = action_errors(
        torch.from_numpy(predicted_NA.astype(true_NA.dtype)), torch.from_numpy(true_NA), spec
    )
    return errors | {"num_transitions": float(len(true_NA))}
