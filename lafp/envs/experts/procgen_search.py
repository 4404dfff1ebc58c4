"""Expert of leaper that plays copies of Procgen's own game ahead."""

# Shape letters in this file: K copies.

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lafp.envs.experts.procgen_planners import STAND
from lafp.envs.experts.procgen_state import GameState, read_state

_MOVES = (5, 1, 7, STAND)  # up, left, right, none
_NUM_LINES, _NUM_MOVES, _STEPS_PER_MOVE = 12, 16, 3
_NUM_MOVES_KEPT = 8
"""Number of moves after which a plan that has not won yet is made anew."""


@dataclass(frozen=True, kw_only=True)
class _Line:
    """Actions, and the saved state of the game after them."""

    state: bytes
    actions: tuple[int, ...] = ()


class LeaperPlanner:
    """Crosses the roads and rivers of leaper by a beam search over saved states.

    A saved state holds the game's random generators too, so the copies meet the same cars and logs
    as the game will. Lines that are equally high are ordered by a draw from the episode's seed.
    """

    def __init__(self, difficulty: str) -> None:
        from procgen import ProcgenGym3Env

        self._copies = ProcgenGym3Env(
            num=_NUM_LINES * len(_MOVES),
            env_name="leaper",
            distribution_mode=difficulty,
            rand_seed=0,
            num_threads=0,
        )
        self._plans: dict[int, list[int]] = {}

    def __call__(self, state: GameState, seed: int, num_steps: int) -> int:
        """See ``Planner``."""
        plan = self._plans.get(seed)
        if num_steps == 0 or not plan:
            rng = np.random.default_rng((seed, num_steps))
            plan = self._plans[seed] = self._search(state.saved, rng)
        return plan.pop(0)

    def _search(self, state: bytes, rng: np.random.Generator) -> list[int]:
        """Returns actions that win, else the first ones of the line that gets highest."""
        lines = [_Line(state=state)]
        for _ in range(_NUM_MOVES):
            tried = [
                _Line(state=line.state, actions=line.actions + (move,) * _STEPS_PER_MOVE)
                for line in lines
                for move in _MOVES
            ]
            has_won_K, is_over_K, states = self._play(tried)
            if has_won_K.any():
                return list(tried[int(has_won_K.argmax())].actions)
            alive = [
                _Line(state=after, actions=line.actions)
                for line, after, is_over in zip(tried, states, is_over_K, strict=True)
                if not is_over
            ]
            if not alive:
                break
            lines = _highest(alive, rng)
        return list(lines[0].actions[: _NUM_MOVES_KEPT * _STEPS_PER_MOVE]) or [STAND]

    def _play(self, lines: Sequence[_Line]) -> tuple[np.ndarray, np.ndarray, list[bytes]]:
        """Plays the last move of each line.

        Returns:
            Whether the line has won, bool [K]; whether its episode is over; its state afterwards.
        """
        copies, num_idle = self._copies, self._copies.num - len(lines)
        copies.callmethod("set_state", [line.state for line in lines] + [lines[0].state] * num_idle)
        actions = np.full(copies.num, STAND, np.int32)
        actions[: len(lines)] = [line.actions[-1] for line in lines]
        has_won, is_over = np.zeros(copies.num, bool), np.zeros(copies.num, bool)
        for _ in range(_STEPS_PER_MOVE):
            copies.act(actions)
            reward, _, is_first = copies.observe()
            has_won |= ~is_over & (reward > 0)
            is_over |= is_first
        states = copies.callmethod("get_state")[: len(lines)]
        return has_won[: len(lines)], is_over[: len(lines)], states


def _highest(lines: Sequence[_Line], rng: np.random.Generator) -> list[_Line]:
    """Returns the lines that are highest up, at most one for each half cell, the best first."""
    agents = [read_state(line.state).agent for line in lines]
    order = sorted(range(len(lines)), key=lambda i: (-agents[i].y, rng.random()))
    places: dict[tuple[int, int], _Line] = {}
    for i in order:
        places.setdefault((round(2 * agents[i].x), round(2 * agents[i].y)), lines[i])
    return list(places.values())[:_NUM_LINES]
