"""Expert of bigfish that looks ahead by a model of how the agent and the fish swim."""

# Shape letters in this file: W ways along one axis, K ways in the plane, T steps, F fish.

import itertools

import numpy as np

from lafp.envs.experts.procgen_planners import DRAG, push_action
from lafp.envs.experts.procgen_state import GameState

_FISH = 2
_PUSH = 0.9 * 0.5 * 0.5  # as in heist, but maxspeed is 0.5
_TOP_SPEED = _PUSH / (1 - DRAG)
_NUM_STEPS = 30
"""Number of steps that a way lasts. A fast fish and the agent approach by 24 of 20 cells in it."""
_WAYS = tuple(itertools.product((3, 8, 20), (-1, 0, 1), (-1, 0, 1)))
"""Along one axis: the step when the push changes, the push before it, and the push after it."""
# Both axes change at the same step, because 243 ways are compared sooner than 729.
_X_K, _Y_K = np.array(
    [(x, y) for x, a in enumerate(_WAYS) for y, b in enumerate(_WAYS) if a[0] == b[0]]
).T
_DISCOUNT = 0.95
_DEATH = 10.0
"""How many fish, eaten at once, are worth a death at once."""
# The agent grows by 0.033 to each side with every fish. It may then touch a larger fish, or a wall.
_TO_FISH, _TO_WALL = 0.04, 0.06
_STUCK = 0.98  # the game tests this share of the agent's size for whether it is in a wall
_DRAW = 0.02  # the largest difference of worth that the draw outweighs


def _distances() -> np.ndarray:
    """Simulates the ways of an agent that rests at 0, float64 [W, T]."""
    distances_WT = np.zeros((len(_WAYS), _NUM_STEPS))
    for way, (turn, before, after) in enumerate(_WAYS):
        x = v = 0.0
        for step in range(_NUM_STEPS):
            v = DRAG * v + _PUSH * (before if step < turn else after)
            x += v
            distances_WT[way, step] = x
    return distances_WT


_DISTANCE_WT = _distances()
_COAST_T = np.cumsum(DRAG ** np.arange(1, _NUM_STEPS + 1))
"""Distances of an agent of speed 1 without a push."""


def plan_bigfish(state: GameState, seed: int, num_steps: int) -> int:
    """Eats smaller fish as early as possible and avoids larger ones.

    A way keeps one of the nine moves for some steps, and then another one. It is worth
    sum_f 0.95^t_f - 10 * 0.95^t_d, with t_f the step when the agent eats fish f, and t_d the step
    when it dies. A fish that the way does not meet is taken to be fetched from the way's end. A way
    that presses against a wall is worth less. A draw from the episode's seed decides between ways
    of about the same worth. The planner does not foresee new fish, because the picture does not
    show where they will enter.
    """
    agent, side = state.agent, state.grid.shape[0]
    # An agent that begins in a wall, or grows into it, is stuck until it swims towards this wall.
    into_walls = [
        int(p > side - _STUCK * agent.rx) - int(p < _STUCK * agent.rx) for p in (agent.x, agent.y)
    ]
    if any(into_walls):
        return push_action(*into_walls)
    x_WT = agent.x + agent.vx * _COAST_T + _DISTANCE_WT
    y_WT = agent.y + agent.vy * _COAST_T + _DISTANCE_WT
    worth_K = np.random.default_rng(seed).uniform(0, _DRAW, len(_X_K))
    for place_WT, way_K in ((x_WT, _X_K), (y_WT, _Y_K)):
        beyond_WT = np.abs(place_WT - side / 2) - (side / 2 - agent.rx - _TO_WALL)
        worth_K -= beyond_WT.clip(0, 1).mean(1)[way_K]
        place_WT.clip(agent.rx, side - agent.rx, out=place_WT)
    worth_K += _worth(state, x_WT, y_WT)
    best = worth_K.argmax()
    return push_action(_WAYS[_X_K[best]][1], _WAYS[_Y_K[best]][1])


def _worth(state: GameState, x_WT: np.ndarray, y_WT: np.ndarray) -> np.ndarray:
    """Returns the worth of each way, see ``plan_bigfish``, float64 [K]."""
    radius, side = state.agent.rx, state.grid.shape[0]
    rows = [(e.x, e.y, e.vx, e.rx, e.ry) for e in state.of_type(_FISH)]
    fish = np.array(rows).reshape(-1, 5).T
    is_larger_F = fish[3] > radius
    meets_KF = _first_meetings(x_WT, y_WT, radius + _TO_FISH * is_larger_F, fish)
    dies_K = meets_KF[:, is_larger_F].min(1, initial=np.inf)
    ends = x_WT[_X_K, -1:], y_WT[_Y_K, -1:]
    fetches_KF = _later_meetings(*ends, radius, side, fish[:, ~is_larger_F])
    eats_KF = np.minimum(meets_KF[:, ~is_larger_F], fetches_KF)
    is_alive_KF = eats_KF < dies_K[:, None]
    return (_DISCOUNT**eats_KF * is_alive_KF).sum(1) - _DEATH * _DISCOUNT**dies_K


def _first_meetings(
    x_WT: np.ndarray, y_WT: np.ndarray, radius_F: np.ndarray, fish: np.ndarray
) -> np.ndarray:
    """Returns the first step in which each way touches each fish, float64 [K, F], inf if none."""
    x_F, y_F, v_F, rx_F, ry_F = fish
    x_TF = x_F + v_F * np.arange(1, _NUM_STEPS + 1)[:, None]
    is_beside_WTF = np.abs(x_WT[:, :, None] - x_TF) < rx_F + radius_F
    is_level_WTF = np.abs(y_WT[:, :, None] - y_F) < ry_F + radius_F
    touches_KTF = is_beside_WTF[_X_K] & is_level_WTF[_Y_K]
    return np.where(touches_KTF.any(1), touches_KTF.argmax(1), np.inf)


def _later_meetings(
    x_K1: np.ndarray, y_K1: np.ndarray, radius: float, side: float, fish: np.ndarray
) -> np.ndarray:
    """Guesses the step in which the agent gets a fish that it swims to after a way's end.

    Returns:
        float64 [K, F], inf for a fish that leaves the picture before.
    """
    x_F, y_F, v_F, rx_F, ry_F = fish
    ahead_KF = x_F + v_F * _NUM_STEPS - x_K1
    closing_KF = _TOP_SPEED - np.sign(ahead_KF) * v_F
    gap_x_KF = (np.abs(ahead_KF) - rx_F - radius).clip(0)
    gap_y_KF = (np.abs(y_F - y_K1) - ry_F - radius).clip(0)
    steps_KF = _NUM_STEPS + np.maximum(gap_x_KF / closing_KF, gap_y_KF / _TOP_SPEED)
    leaves_F = np.where(v_F > 0, side - x_F, x_F) / np.abs(v_F)
    return np.where(steps_KF < leaves_F, steps_KF, np.inf)
