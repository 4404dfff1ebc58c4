"""Buffers that keep their precision when the model around them is cast."""

from collections.abc import Callable

from torch import Tensor, nn


class ExactBuffers(nn.Module):
    """A module whose buffers move to the model's device, but never change their dtype."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        kept = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, value in kept.items():
            moved = self._buffers[name]
            assert value is not None and moved is not None
            # The value from before the cast is moved, because a cast back would not restore its
            # digits.
            self._buffers[name] = value.to(moved.device)
        return self
