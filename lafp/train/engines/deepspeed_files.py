"""Reads files of DeepSpeed's checkpoints without running code that they may hold.

DeepSpeed itself unpickles them. Whoever can write to the storage could then run code in the job.
"""

import pickle
from pathlib import Path
from typing import Any

import torch

from lafp.config import ConfigError


def read(path: str | Path, map_location: Any = "cpu", mmap: bool = False) -> dict[str, Any]:
    """Reads tensors, plain values, and the three classes of settings that DeepSpeed stores.

    Raises:
        ConfigError: The file holds anything else.
    """
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    try:
        with torch.serialization.safe_globals([LossScaler, ZeroStageEnum, fragment_address]):
            found: dict[str, Any] = torch.load(
                path, map_location=map_location, mmap=mmap, weights_only=True
            )
    except pickle.UnpicklingError as error:
        first = str(error).splitlines()[0]
        raise ConfigError(
            f"{path} holds more than the numbers of a checkpoint, and was not loaded: {first} Do "
            "not use this checkpoint if you do not know who wrote it."
        ) from None
    return found
