"""Loads a ZeRO checkpoint with another number of workers than wrote it.

DeepSpeed's own way, the universal checkpoint, loads neither buffers nor frozen weights, so a target
encoder would start anew, and under ZeRO-3 it gives all parameter groups the weight decay of the
first. Here every rank maps the files of all ranks into memory and copies its own slices: nothing is
converted or sent, and no rank holds more than the part that it trains.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lafp.train.engines.deepspeed_files import read

MOMENTS = ("exp_avg", "exp_avg_sq")


def load_resharded(engine: Any, folder: Path, num_ranks: int) -> None:
    """Loads all weights (also frozen ones), buffers and AdamW's state.

    Args:
        engine: A DeepSpeed engine of ZeRO stage 1, 2 or 3, before its first step.
        folder: The folder that ``save_checkpoint`` wrote, with the files of all ranks.
        num_ranks: Number of ranks that wrote it.
    """
    optimizer_states = [
        _read(folder / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")["optimizer_state_dict"]
        for rank in range(num_ranks)
    ]
    if engine.zero_optimization_stage() < 3:
        engine.module.load_state_dict(_read(folder / "mp_rank_00_model_states.pt")["module"])
        _load_flat_groups(engine.optimizer, optimizer_states)
        return
    model_states = [
        _read(folder / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt")
        for rank in range(num_ranks)
    ]
    engine.optimizer.checkpoint_event_prologue()  # releases gathered parameters
    _load_frozen_and_buffers(engine.module, model_states)
    _load_cut_weights(engine, optimizer_states, model_states[0]["param_shapes"])
    engine.optimizer.checkpoint_event_epilogue()


def _load_flat_groups(optimizer: Any, states: Sequence[dict[str, Any]]) -> None:
    """Loads stages 1 and 2, where a parameter group is one vector, cut into equal parts."""
    for index, mine in enumerate(optimizer.single_partition_of_fp32_groups):
        start, length = dist.get_rank() * len(mine), len(mine)
        weights = [state["single_partition_of_fp32_groups"][index] for state in states]
        mine.data.copy_(_piece(weights, start, length))
        saved = [state["base_optimizer_state"]["state"][index] for state in states]
        moments = {
            key: _piece([of_rank[key] for of_rank in saved], start, length).to(mine.device)
            for key in MOMENTS
        }
        optimizer.optimizer.state[mine] = _adam_state(saved[0]["step"], moments)


@torch.no_grad()
def _load_frozen_and_buffers(module: nn.Module, states: Sequence[dict[str, Any]]) -> None:
    """Loads the parameters and buffers that the optimizer does not own, at stage 3."""
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            mine: Tensor = parameter.ds_tensor  # type: ignore[attr-defined]
            parts = [state["frozen_param_fragments"][name].flatten() for state in states]
            mine.copy_(_piece(parts, dist.get_rank() * len(mine), len(mine)))
    # Buffers are not sharded, so the first rank's file has all of them.
    saved = states[0]["module"]
    for name, buffer in module.named_buffers():
        if name in saved:  # buffers may be missing in a state dict (persistent=False)
            buffer.copy_(saved[name])


def _load_cut_weights(
    engine: Any, states: Sequence[dict[str, Any]], saved_shapes: Sequence[Mapping[str, torch.Size]]
) -> None:
    """Loads stage 3, where each weight is cut into parts, one per rank.

    A rank's flat group joins its parts of the group's weights.
    """
    optimizer = engine.optimizer
    names = {id(parameter): name for name, parameter in engine.module.named_parameters()}
    places = _places(saved_shapes, len(states))
    groups = zip(optimizer.fp16_groups, optimizer.fp32_partitioned_groups_flat, strict=True)
    for parameters, mine in groups:
        moments = {key: torch.zeros_like(mine) for key in MOMENTS}
        offset = 0
        for parameter in parameters:
            index, where = places[names[id(parameter)]]
            saved = [state["optimizer_state_dict"]["state"][index] for state in states]
            length = parameter.ds_tensor.numel()
            start = dist.get_rank() * length
            here = slice(offset, offset + length)
            weights = [state["fp32_flat_groups"][index][where] for state in states]
            mine.data[here] = _piece(weights, start, length)
            # ZeRO-3 holds each part twice: for forward passes here, for the optimizer in ``mine``.
            parameter.ds_tensor.data.copy_(mine.data[here])
            for key, moment in moments.items():
                moment[here] = _piece([of_rank[key][where] for of_rank in saved], start, length)
            step = saved[0]["step"]
            offset += length
        optimizer.optimizer.state[mine] = _adam_state(step, moments)


def _places(
    shapes: Sequence[Mapping[str, torch.Size]], num_ranks: int
) -> dict[str, tuple[int, slice]]:
    """Maps each weight to its flat group and its slice there, which is equal on all ranks."""
    places = {}
    for index, group in enumerate(shapes):
        offset = 0
        for name, shape in group.items():
            # ZeRO-3 pads every weight so that all ranks hold parts of one length.
            length = -(-shape.numel() // num_ranks)
            places[name] = index, slice(offset, offset + length)
            offset += length
    return places


def _adam_state(step: int | Tensor, moments: dict[str, Tensor]) -> dict[str, int | Tensor]:
    if isinstance(step, Tensor):
        # A copy, because the optimizer counts on in this tensor, and the saved one lies in a mapped
        # file.
        step = step.to(moments["exp_avg"].device, copy=True)
    return {"step": step, **moments}


def _piece(parts: Sequence[Tensor], start: int, length: int) -> Tensor:
    """Returns elements ``start`` to ``start + length`` of the joined parts; zeros past the end."""
    piece, offset = parts[0].new_zeros(length), 0
    for part in parts:
        first, last = max(start, offset), min(start + length, offset + len(part))
        if first < last:
            piece[first - start : last - start] = part[first - offset : last - offset]
        offset += len(part)
    return piece


# Every rank maps the files of all ranks, and reads its part of them.
_read = partial(read, mmap=True)
