"""Defines the requests to a training run from outside.

This module does not import torch, because Ray processes that do not train pass requests on.
"""

from enum import IntEnum


class Notice(IntEnum):
    """Names a request from outside the loop, to be carried out after a step."""

    NONE = 0
    SAVE = 1
    """Save a checkpoint now and go on, because a machine is about to be shut down."""
    STOP = 2
    """Save a checkpoint, then end."""
