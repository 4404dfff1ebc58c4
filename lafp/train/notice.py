"""What a training run can be asked for from outside. Without torch: the asking is Ray's."""

from enum import IntEnum


class Notice(IntEnum):
    """What is due after a step because somebody outside of the loop asked for it."""

    NONE = 0
    SAVE = 1
    """A machine is about to go: a checkpoint now, and on."""
    STOP = 2
    """A checkpoint, then the end."""
