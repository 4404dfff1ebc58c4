"""Compiles the networks that train, with ``torch.compile``."""

import os
import shutil
from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch
from torch import nn

from lafp.config import ConfigError
from lafp.train.task import TrainedModule


def check_compilable(module: nn.Module) -> None:
    """Checks that a ``TrainedModule`` has networks that can be compiled.

    Raises:
        ConfigError: It has none.
    """
    if not cast(TrainedModule, module).networks():
        raise ConfigError(
            "train.compile is true, but this model has no network that is worth compiling. Set "
            "train.compile=false."
        )


def compile_networks(module: nn.Module) -> None:
    """Lets each network of a ``TrainedModule`` compile at its first call.

    Only networks are compiled, not the whole loss: what a loss changes beside it (codebooks,
    statistics, random numbers) stays as it is, and so do the names of all weights.

    Args:
        module: The task's module, before an engine wraps it.

    Raises:
        ConfigError: The module has no networks to compile, or there is no compiler.
    """
    check_compilable(module)
    if not (os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")):
        raise ConfigError(
            "train.compile is true, but a worker has no C++ compiler. Install one (apt-get install "
            "g++), or set train.compile=false."
        )
    for network in cast(TrainedModule, module).networks():
        # Without an extra frame, torch.compile passes over a network of a class of torch itself
        # (nn.Sequential) without a word.
        is_of_torch = type(network).forward.__module__.startswith("torch.")
        with torch._dynamo.config.patch(wrap_top_frame=is_of_torch):
            network.compile()


def uncompiled(is_compiled: bool) -> AbstractContextManager:
    """Runs compiled networks as they were within the block, if any are compiled.

    Measurements have batches of many sizes, and each size would be compiled anew.
    """
    return torch.compiler.set_stance("force_eager") if is_compiled else nullcontext()
