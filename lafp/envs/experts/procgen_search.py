"""Experts of leaper and chaser that play copies of Procgen's own game ahead."""

# Shape letters in this file: K copies.

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lafp.envs.experts.procgen_planners import STAND, STEPS, Cell, cell_of
from lafp.envs.experts.procgen_state import GameState, read_state

_NUM_MOVES, _NUM_MOVES_KEPT = 16, 8
"""Number of moves of a line, and after which a plan that has not won yet is made anew."""
_WIN = 10.0
"""Reward of the step that wins, in both games."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """Actions, and the game after them."""

    state: GameState
    actions: tuple[int, ...] = ()
    reward: float = 0.0
    """Sum over the actions."""


class SearchPlanner(ABC):
    """Plans by a beam search over saved states: lines of moves, the best of which go on.

    A move is an action that lasts some steps. A saved state holds the game's random generators too,
    so the copies meet what the game will meet. Lines that lose are left out, and lines of the same
    worth are ordered by a draw from the episode's seed.
    """

    game: ClassVar[str]
    num_lines: ClassVar[int]
    steps_per_move: ClassVar[int]

    def __init__(self, difficulty: str) -> None:
        from procgen import ProcgenGym3Env

        self._copies = ProcgenGym3Env(
            num=self.num_lines * 4,  # each line goes on with four moves at most
            env_name=self.game,
            distribution_mode=difficulty,
            rand_seed=0,
            num_threads=0,
        )
        self._plans: dict[int, deque[int]] = {}

    def __call__(self, state: GameState, seed: int, num_steps: int) -> int:
        """See ``Planner``."""
        plan = self._plans.get(seed)
        if num_steps == 0 or not plan:
            rng = np.random.default_rng((seed, num_steps))
            plan = self._plans[seed] = deque(self._search(state, rng))
        return plan.popleft()

    @abstractmethod
    def moves(self, state: GameState) -> Sequence[int]:
        """Returns the actions that a line may go on with, at most four."""

    @abstractmethod
    def worth(self, line: Line) -> tuple[float, ...]:
        """Returns numbers that order lines of equally many moves, the larger the better."""

    def _search(self, state: GameState, rng: np.random.Generator) -> list[int]:
        """Returns actions that win, else the first ones of the line that is worth most."""
        lines = [Line(state=state)]
        for _ in range(_NUM_MOVES):
            tried = [(line, move) for line in lines for move in self.moves(line.state)]
            played, has_won_K, is_over_K = self._play(tried)
            won = [played[k] for k in np.flatnonzero(has_won_K)]
            if won:
                return list(max(won, key=lambda line: line.reward).actions)
            alive = [played[k] for k in np.flatnonzero(~is_over_K)]
            if not alive:
                break
            lines = self._best(alive, rng)
        return list(lines[0].actions[: _NUM_MOVES_KEPT * self.steps_per_move]) or [STAND]

    def _play(self, tried: Sequence[tuple[Line, int]]) -> tuple[list[Line], np.ndarray, np.ndarray]:
        """Plays one more move of each line.

        Returns:
            The lines after it; whether each has won, bool [K]; whether its episode is over.
        """
        copies, num = self._copies, len(tried)
        saved = [line.state.saved for line, _ in tried]
        copies.callmethod("set_state", saved + saved[:1] * (copies.num - num))
        actions_K = np.full(copies.num, STAND, np.int32)
        actions_K[:num] = [move for _, move in tried]
        has_won_K, is_over_K = np.zeros(copies.num, bool), np.zeros(copies.num, bool)
        reward_K = np.zeros(copies.num)
        for _ in range(self.steps_per_move):
            copies.act(actions_K)
            reward_now_K, _, is_first_K = copies.observe()
            has_won_K |= ~is_over_K & (reward_now_K >= _WIN)
            reward_K += np.where(is_over_K, 0, reward_now_K)
            is_over_K |= is_first_K
        states = copies.callmethod("get_state")
        played = [
            Line(
                state=read_state(states[k]),
                actions=line.actions + (move,) * self.steps_per_move,
                reward=line.reward + float(reward_K[k]),
            )
            for k, (line, move) in enumerate(tried)
        ]
        return played, has_won_K[:num], is_over_K[:num]

    def _best(self, lines: Sequence[Line], rng: np.random.Generator) -> list[Line]:
        """Returns the lines that are worth most, at most one for each half cell, best first."""
        worths = [(*self.worth(line), rng.random()) for line in lines]
        order = sorted(range(len(lines)), key=worths.__getitem__, reverse=True)
        places: dict[tuple[int, int], Line] = {}
        for i in order:
            agent = lines[i].state.agent
            places.setdefault((round(2 * agent.x), round(2 * agent.y)), lines[i])
        return list(places.values())[: self.num_lines]


class LeaperPlanner(SearchPlanner):
    """Crosses the roads and rivers of leaper."""

    game = "leaper"
    num_lines = 12
    steps_per_move = 3

    def moves(self, state: GameState) -> Sequence[int]:
        """See ``SearchPlanner``."""
        return 5, 1, 7, STAND  # up, left, right, none

    def worth(self, line: Line) -> tuple[float, ...]:
        """Returns how high the agent is."""
        return (line.state.agent.y,)


_WALL, _ORB, _LARGE_ORB = 5, 1002, 2
_ORB_REWARD = 0.04


class ChaserPlanner(SearchPlanner):
    """Eats the orbs of chaser's maze along its corridors and keeps away from the enemies."""

    game = "chaser"
    num_lines = 6
    steps_per_move = 2
    """Number of steps from one cell to the next. The agent cannot stop between walls."""

    def moves(self, state: GameState) -> Sequence[int]:
        """See ``SearchPlanner``."""
        return [action for _, action in _neighbors(state, cell_of(state.agent))]

    def worth(self, line: Line) -> tuple[float, ...]:
        """Returns the number of orbs eaten, then how near the next one is."""
        return round(line.reward / _ORB_REWARD), -_distance_to_orb(line.state)


def _neighbors(state: GameState, cell: Cell) -> Iterator[tuple[Cell, int]]:
    """Yields the cells beside one that are no wall, with the actions that lead there."""
    height, width = state.grid.shape
    for action, (right, up) in STEPS.items():
        x, y = cell[0] + right, cell[1] + up
        if 0 <= x < width and 0 <= y < height and state.grid[y, x] != _WALL:
            yield (x, y), action


def _distance_to_orb(state: GameState) -> int:
    """Returns the number of cells to the next orb, small or large; 0 if none is left."""
    large = {cell_of(orb) for orb in state.of_type(_LARGE_ORB)}
    start = cell_of(state.agent)
    distance = {start: 0}
    queue = deque([start])
    while queue:
        cell = queue.popleft()
        if state.grid[cell[1], cell[0]] == _ORB or cell in large:
            return distance[cell]
        for neighbor, _ in _neighbors(state, cell):
            if neighbor not in distance:
                distance[neighbor] = distance[cell] + 1
                queue.append(neighbor)
    return 0
