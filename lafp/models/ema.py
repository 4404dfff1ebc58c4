"""Keeps an exponential moving average of one module's weights in another module."""

import torch
from torch import Tensor, nn


@torch.no_grad()
def ema_update_(target: nn.Module, online: nn.Module, decay: float) -> None:
    """Updates in place: target <- decay * target + (1 - decay) * online. Buffers are copied.

    Under DeepSpeed's ZeRO-3 a parameter is a flat slice per rank (``ds_tensor``). Both modules
    are sliced alike, so every rank updates its own slices without communication.

    Args:
        target: Module of the same structure as ``online``, in fp32. At a decay of 0.999, rounding
            to bf16 would cancel most updates.
        online: The trained module.
        decay: Decay in [0, 1].

    Raises:
        ValueError: The target is not in fp32, or the modules differ.
    """
    parameters = zip(target.named_parameters(), online.parameters(), strict=True)
    for (name, old), new in parameters:
        olds, news = _stored(old), _stored(new)
        if len(olds) != len(news):
            raise ValueError(f"{name} is gathered in one of target and online, not in both.")
        if len(olds) == 2 and olds[0].data_ptr() == olds[1].data_ptr():
            olds, news = olds[:1], news[:1]  # one rank: its slice is the parameter, update it once
        for old_values, new_values in zip(olds, news, strict=True):
            # In bf16, a step of 1 - decay = 0.001 would be lost to rounding.
            if old_values.dtype != torch.float32:
                raise ValueError(
                    f"An EMA needs fp32 weights, {name} is {old_values.dtype}. "
                    "Train in bf16 by autocast, over fp32 weights."
                )
            old_values.lerp_(new_values.to(old_values), 1 - decay)
    for old_buffer, new_buffer in zip(target.buffers(), online.buffers(), strict=True):
        old_buffer.copy_(new_buffer)


def _stored(parameter: nn.Parameter) -> list[Tensor]:
    """Returns the tensors that hold a parameter's values: itself, its ZeRO-3 slice, or both.

    ZeRO-3 keeps small parameters gathered between steps, in addition to their slices.
    """
    partition = getattr(parameter, "ds_tensor", None)
    if partition is None:
        return [parameter.data]
    is_gathered = parameter.data.numel() == parameter.ds_numel  # type: ignore[attr-defined]
    return [partition, parameter.data] if is_gathered else [partition]
