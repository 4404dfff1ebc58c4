"""Experts of Procgen that need no training, because they plan on the game's internal state.

A planner sees more than the pixels, so a policy cannot always know what the planner does. If
several ways are equally good, a planner draws one at random, by the episode's seed, so that
demonstrations have several modes.
"""

import heapq
import itertools
import random
import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from lafp.envs.experts.procgen_state import SPACE, WALL, Entity, GameState

STAND = 4
STEPS = {1: (-1, 0), 7: (1, 0), 3: (0, -1), 5: (0, 1)}
"""Action -> number of cells to the right and up."""
Cell = tuple[int, int]
Planner = Callable[[GameState, int, int], int]
"""(state, the episode's seed, number of steps so far) -> action."""


def cell_of(entity: Entity) -> Cell:
    """Returns the column and row of an entity's centre."""
    return int(entity.x), int(entity.y)


def shortest_path(
    start: Cell, is_goal: Callable[[Cell], bool], is_free: Callable[[Cell], bool], seed: int
) -> list[Cell] | None:
    """Finds one of the shortest ways over free cells, without the start; None if there is none.

    ``seed`` draws an order of directions, which picks one of several shortest ways.
    """
    directions = list(STEPS.values())
    random.Random(seed).shuffle(directions)
    came_from: dict[Cell, Cell | None] = {start: None}
    queue = deque([start])
    while queue:
        cell = queue.popleft()
        if is_goal(cell):
            path = [cell]
            while (before := came_from[path[-1]]) is not None:
                path.append(before)
            return path[-2::-1]
        for right, up in directions:
            neighbor = cell[0] + right, cell[1] + up
            if neighbor not in came_from and (is_free(neighbor) or is_goal(neighbor)):
                came_from[neighbor] = cell
                queue.append(neighbor)
    return None


def action_towards(start: Cell, neighbor: Cell) -> int:
    """Returns the action that moves the agent to a neighbouring cell."""
    step = neighbor[0] - start[0], neighbor[1] - start[1]
    return next(action for action, moved in STEPS.items() if moved == step)


def push_action(right: int, up: int) -> int:
    """Returns the action that pushes by -1, 0 or 1 along each axis."""
    return 3 * (right + 1) + up + 1


def plan_maze(state: GameState, seed: int, num_steps: int) -> int:
    """Follows a shortest way to the cheese."""
    goal = 2
    height, width = state.grid.shape

    def at(cell: Cell) -> int:
        x, y = cell
        return int(state.grid[y, x]) if 0 <= x < width and 0 <= y < height else WALL

    start = cell_of(state.agent)
    path = shortest_path(start, lambda c: at(c) == goal, lambda c: at(c) == SPACE, seed)
    return action_towards(start, path[0]) if path else STAND


_HEIST_DOOR, _HEIST_KEY, _HEIST_EXIT = 1, 2, 9
# A step of heist: v' = 0.9 ((1 - mixrate) v + mixrate * maxspeed * action), then x' = x + v'.
DRAG, _PUSH = 0.45, 0.9 * 0.5 * 0.75


def plan_heist(state: GameState, seed: int, num_steps: int) -> int:
    """Fetches the keys that open the way, then the gem. The order of keys is drawn at random."""
    height, width = state.grid.shape
    doors = {cell_of(e): e.image_theme for e in state.of_type(_HEIST_DOOR)}
    keys = {cell_of(e): e.image_theme for e in state.of_type(_HEIST_KEY)}
    num_keys = state.tail[0]
    held = {theme for theme in range(num_keys) if state.tail[3 + theme]}
    (gem,) = (cell_of(e) for e in state.of_type(_HEIST_EXIT))

    def is_free(cell: Cell) -> bool:
        x, y = cell
        if not (0 <= x < width and 0 <= y < height) or state.grid[y, x] == WALL:
            return False
        return doors.get(cell, -1) in held or cell not in doors

    start = cell_of(state.agent)
    path = shortest_path(start, lambda c: c == gem, is_free, seed)
    if path is None:
        missing = [cell for cell, theme in sorted(keys.items()) if theme not in held]
        random.Random(seed).shuffle(missing)
        ways = (shortest_path(start, {cell}.__contains__, is_free, seed) for cell in missing)
        path = next(filter(None, ways), None)
    if not path:
        return STAND
    x, y = _end_of_straight(start, path)
    agent = state.agent
    return push_action(_push(agent.x, agent.vx, x + 0.5), _push(agent.y, agent.vy, y + 0.5))


def _end_of_straight(start: Cell, path: list[Cell]) -> Cell:
    """Returns the last cell of a path before its first turn."""
    cells = [start, *path]
    for before, cell, after in zip(cells, path, path[1:], strict=False):
        if (after[0] - cell[0], after[1] - cell[1]) != (cell[0] - before[0], cell[1] - before[1]):
            return cell
    return path[-1]


def _push(position: float, velocity: float, target: float) -> int:
    """Returns the next push along one axis, -1, 0 or 1, to bring the agent to rest at a target.

    A push moves the agent by 0.34 cells, but a corridor leaves only 0.12 to either side. So the
    function searches over three pushes, because two opposite ones move by less than one does.
    """

    def cost(pushes: tuple[int, ...]) -> float:
        x, v, distance = position, velocity, 0.0
        for push in pushes:
            v = DRAG * v + _PUSH * push
            x += v
            distance += abs(x - target) + 0.01 * abs(push)
        return distance + 0.3 * abs(v)

    return min(itertools.product((0, -1, 1), repeat=3), key=cost)[0]


_BOULDER, _DIAMOND, _FALLING_BOULDER, _FALLING_DIAMOND = 1, 2, 3, 4
_MINER_EXIT, _DIRT = 6, 9
_OUTSIDE = 10
_IS_ROUND = re.compile(rb"[\x01-\x04]")
_AT_REST = {_BOULDER: _BOULDER, _DIAMOND: _DIAMOND, 3: _BOULDER, 4: _DIAMOND}
_FALLS = {_BOULDER: 3, _DIAMOND: 4, 3: 3, 4: 4}
_MAX_NODES = 6000
# Weight of the guessed remaining steps. Above 1, the search visits fewer nodes, but its plan may
# have more steps than necessary.
_GREED = 1.6


@dataclass(frozen=True)
class Mine:
    """A state of miner that the search visits."""

    agent: int
    grid: bytes
    num_diamonds: int
    """Number of diamonds when the last step ended. The exit opens one step after it reaches 0."""


class MinerPlanner:
    """Collects all diamonds and leaves, by A* on the game's rules, including falling boulders.

    The planner plans once, and follows its plan as long as the game does what it simulated. If it
    finds no plan, it stands still and the episode fails.
    """

    def __init__(self) -> None:
        self._plans: dict[int, deque[tuple[int, bytes, int]]] = {}

    def __call__(self, state: GameState, seed: int, num_steps: int) -> int:
        """See ``Planner``."""
        width = state.grid.shape[1]
        x, y = cell_of(state.agent)
        now = Mine(
            agent=y * width + x,
            grid=state.grid.astype(np.uint8).tobytes(),
            num_diamonds=state.tail[0] if num_steps else -1,
        )
        plan = self._plans.get(seed)
        is_lost = plan is None or (plan and plan[0][1:] != (now.grid, now.agent))
        if num_steps == 0 or is_lost:
            (door,) = (cell_of(e) for e in state.of_type(_MINER_EXIT))
            search = MinerSearch(width, door[1] * width + door[0], seed)
            plan = self._plans[seed] = deque(search.plan(now))
        assert plan is not None
        return plan.popleft()[0] if plan else STAND


@dataclass
class MinerSearch:
    """An A* search over actions."""

    width: int
    exit: int
    seed: int

    def plan(self, start: Mine) -> Iterator[tuple[int, bytes, int]]:
        """Returns actions, each with the grid and the agent's cell before the action."""
        draw = random.Random(self.seed).random
        num_seen = 0
        open_nodes: list[tuple[float, int, Mine]] = [(0.0, 0, start)]
        came_from: dict[Mine, tuple[Mine, int] | None] = {start: None}
        cost = {start: 0}
        for _ in range(_MAX_NODES):
            if not open_nodes:
                return iter(())
            _, _, mine = heapq.heappop(open_nodes)
            if mine.agent == self.exit and mine.num_diamonds == 0:
                return self._way_to(mine, came_from)
            for action in STEPS:
                after = self.after(mine, action)
                if after is None or cost.get(after, 1 << 30) <= cost[mine] + 1:
                    continue
                cost[after] = cost[mine] + 1
                came_from[after] = mine, action
                num_seen += 1
                priority = cost[after] + _GREED * self._steps_left(after) + draw() / 2
                # The number decides between equal priorities, because states cannot be compared.
                heapq.heappush(open_nodes, (priority, num_seen, after))
        return iter(())

    @staticmethod
    def _way_to(
        mine: Mine, came_from: dict[Mine, tuple[Mine, int] | None]
    ) -> Iterator[tuple[int, bytes, int]]:
        way = []
        while (step := came_from[mine]) is not None:
            mine, action = step
            way.append((action, mine.grid, mine.agent))
        return reversed(way)

    def _steps_left(self, mine: Mine) -> int:
        """Guesses the remaining steps: always to the nearest diamond, then to the exit."""
        left = [i for i, kind in enumerate(mine.grid) if kind in (_DIAMOND, _FALLING_DIAMOND)]
        here, steps = mine.agent, 0
        while left:
            nearest = min(left, key=lambda i: self._distance(here, i))
            steps += self._distance(here, nearest)
            left.remove(nearest)
            here = nearest
        return steps + self._distance(here, self.exit)

    def _distance(self, a: int, b: int) -> int:
        return abs(a % self.width - b % self.width) + abs(a // self.width - b // self.width)

    def after(self, mine: Mine, action: int) -> Mine | None:
        """Simulates an action. Returns None if it kills the agent."""
        width, grid, agent = self.width, bytearray(mine.grid), mine.agent
        agent = self._moved(grid, agent, *STEPS[action])
        if grid[agent] in (_DIRT, _DIAMOND):
            grid[agent] = SPACE
        num_diamonds, num_cells = 0, len(grid)

        def at(i: int) -> int:
            return grid[i] if 0 <= i < num_cells else _OUTSIDE

        def is_free(i: int) -> bool:
            return at(i) == SPACE and i != agent

        found = _IS_ROUND.search(grid)
        while found:
            i = found.start()
            kind = grid[i]
            at_rest, below, column = _AT_REST[kind], i - width, i % width
            num_diamonds += at_rest == _DIAMOND
            is_on_round = at(below) in _AT_REST
            if at(below) == SPACE and below != agent:
                grid[i], grid[below] = SPACE, _FALLS[kind]
            elif below == agent and kind in (_FALLING_BOULDER, _FALLING_DIAMOND):
                return None
            elif is_on_round and column > 0 and is_free(i - 1) and is_free(below - 1):
                grid[i], grid[i - 1] = SPACE, at_rest
            elif is_on_round and column < width - 1 and is_free(i + 1) and is_free(below + 1):
                grid[i], grid[i + 1] = SPACE, at_rest
            else:
                grid[i] = at_rest
            found = _IS_ROUND.search(grid, i + 1)
        return Mine(agent, bytes(grid), num_diamonds)

    def _moved(self, grid: bytearray, agent: int, right: int, up: int) -> int:
        """Moves the agent, and pushes a boulder beside it if that is possible."""
        width = self.width
        column, row = agent % width + right, agent // width + up
        if not (0 <= column < width and 0 <= row < len(grid) // width):
            return agent
        target = row * width + column
        if grid[target] not in (_BOULDER, _FALLING_BOULDER):
            return target
        can_push = grid[target] == _BOULDER and right and 0 <= column + right < width
        # The game tests the agent's column, so the agent cannot push a boulder into the column next
        # to the wall.
        is_inside = agent % width < width - 2 if right > 0 else agent % width > 1
        if can_push and is_inside and grid[target + right] == SPACE:
            grid[target], grid[target + right] = SPACE, _BOULDER
            return target
        return agent
