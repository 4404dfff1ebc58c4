"""Reads and changes Procgen's saved states, in the layout of openai/procgen's ``serialize``.

All numbers are 4 bytes in the machine's order. A state is a header, two random generators, the last
step's outcome, entities of 31 numbers, the camera, a random generator, the grid, the game's own
tail, and a trailer.
"""

import struct
from dataclasses import dataclass

import numpy as np

TRAILER = -889271554
PLAYER, SPACE, WALL = 0, 100, 51
_NUM_ENTITY_VALUES = 31
_NUM_OPTIONS = 12  # between the game's name and its levels
_NUM_OUTCOME_VALUES = 15  # the last step's reward, end, action, levels, timers
_NUM_MOTION_VALUES = 19  # background, action, limits of speed, camera


@dataclass(frozen=True, kw_only=True)
class Entity:
    """An object that is not part of the grid: the agent, a key, an enemy."""

    x: float
    y: float
    vx: float
    vy: float
    rx: float
    ry: float
    type: int
    image_theme: int
    """Number of its picture among those of its type, e.g. a key's colour."""


@dataclass(frozen=True, kw_only=True)
class GameState:
    """The part of a saved state that planners need."""

    entities: tuple[Entity, ...]
    grid: np.ndarray
    """int32 [height, width], row 0 at the bottom."""
    tail: tuple[int, ...]
    """The game's own numbers. Floats are given as the integers with the same bits."""
    saved: bytes
    """The saved state itself."""

    @property
    def agent(self) -> Entity:
        """The player."""
        return next(entity for entity in self.entities if entity.type == PLAYER)

    def of_type(self, kind: int) -> list[Entity]:
        """Returns all entities of a type."""
        return [entity for entity in self.entities if entity.type == kind]


class _Reader:
    def __init__(self, data: bytes, offset: int = 0) -> None:
        self.data, self.offset = data, offset

    def number(self) -> int:
        (value,) = struct.unpack_from("i", self.data, self.offset)
        self.offset += 4
        return value

    def skip(self, num_values: int) -> None:
        self.offset += 4 * num_values

    def skip_string(self) -> None:
        num_bytes = self.number()
        self.offset += num_bytes

    def skip_generator(self) -> None:
        self.skip(1)
        self.skip_string()

    def ints(self, num: int) -> np.ndarray:
        values = np.frombuffer(self.data, np.int32, num, self.offset)
        self.offset += 4 * num
        return values


def read_state(data: bytes) -> GameState:
    """Reads the part of a saved state that planners need.

    Raises:
        ValueError: The bytes are not a state in the layout of procgen2 0.10.
    """
    reader = _Reader(data, _levels_offset(data))
    reader.skip(4)  # levels from and to, type of game, number of the game
    reader.skip_generator()
    reader.skip_generator()
    reader.skip(_NUM_OUTCOME_VALUES)
    reader.skip(1)  # grid_size
    num_entities = reader.number()
    rows = reader.ints(num_entities * _NUM_ENTITY_VALUES).reshape(-1, _NUM_ENTITY_VALUES)
    floats = rows.view(np.float32)
    entities = tuple(
        Entity(
            x=float(floats[i, 0]),
            y=float(floats[i, 1]),
            vx=float(floats[i, 2]),
            vy=float(floats[i, 3]),
            rx=float(floats[i, 4]),
            ry=float(floats[i, 5]),
            type=int(rows[i, 6]),
            image_theme=int(rows[i, 8]),
        )
        for i in range(num_entities)
    )
    reader.skip(_NUM_MOTION_VALUES)
    reader.skip_generator()
    reader.skip(3 + 6)  # width, height, what lies outside; six floats of the view
    width, height = reader.number(), reader.number()
    grid = reader.ints(reader.number()).reshape(height, width)
    num_left = (len(data) - reader.offset) // 4
    tail = reader.ints(num_left)
    if not num_left or tail[-1] != TRAILER:
        raise ValueError("These bytes are not a state of Procgen in the layout of procgen2 0.10.")
    return GameState(
        entities=entities, grid=grid, tail=tuple(int(v) for v in tail[:-1]), saved=data
    )


def with_level(data: bytes, level: int) -> bytes:
    """Returns a copy of a state in which ``level`` is the game's only level.

    The game begins this level next.
    """
    offset = _levels_offset(data)
    return data[:offset] + struct.pack("ii", level, level + 1) + data[offset + 8 :]


def _levels_offset(data: bytes) -> int:
    """Finds the offset of the range of levels: the first, and the one after the last."""
    reader = _Reader(data, 4)  # after the version
    reader.skip_string()
    reader.skip(_NUM_OPTIONS + 1)  # options and grid_step
    return reader.offset
