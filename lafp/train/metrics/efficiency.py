"""Measures how well a training step uses its device: its FLOPs against the peak, and memory."""

import functools
import re
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from lafp.train.compiled import uncompiled

_PEAK_TFLOPS = (
    # Part of the device's name, peak in dense bf16, and in fp32 without TF32, from data sheets.
    # The first name that stands in the device's name as whole words counts, so longer names come
    # before shorter ones.
    ("B200", 2250.0, 75.0),
    ("H100 PCIe", 756.0, 51.0),
    ("H100 NVL", 835.0, 60.0),
    ("H100", 989.0, 67.0),
    ("H200", 989.0, 67.0),
    ("A100", 312.0, 19.5),
    ("L40S", 362.0, 91.6),
    ("L40", 181.0, 90.5),
    ("A10G", 70.0, 35.0),
    ("A10", 125.0, 31.2),
    ("L4", 121.0, 30.3),
    ("RTX 4090", 165.0, 82.6),
)
# torch's table of FLOP formulas knows attention on GPUs only, so the CPU's operators are added.
_CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_CPU_ATTENTION_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
_CPU_MATMUL_SIZE, _CPU_MATMUL_ROUNDS = 1024, 5


class Efficiency:
    """Measures model FLOPs utilization and memory of this process.

    Args:
        device: Device on which the model runs.
        precision: Precision of its matrix products, ``fp32`` or ``bf16``.
        num_rounds: Micro-batches per step.
        is_compiled: Whether the networks are compiled. The step that is counted then runs them as
            they were, because compiled operations do not show to the counter.
    """

    def __init__(
        self, device: torch.device, precision: str, num_rounds: int, is_compiled: bool = False
    ) -> None:
        self._device, self._precision, self._num_rounds = device, precision, num_rounds
        self._is_compiled = is_compiled
        self.flops_per_step = 0
        self._has_counted = False

    @contextmanager
    def counting_once(self) -> Iterator[None]:
        """Counts the FLOPs of the first such block: forward and backward of one micro-batch.

        It counts matrix products, convolutions and attention, like ``torch.utils.flop_counter``.
        Activations that a checkpointed block computes again are counted again.
        """
        # Counting slows every operation down, and all micro-batches cost the same, so only one is
        # counted.
        if self._has_counted:
            yield
            return
        self._has_counted = True
        counter = _FlopCounter()
        with uncompiled(self._is_compiled), counter:
            yield
        self.flops_per_step = 0 if counter.is_lost else counter.num_flops * self._num_rounds

    def metrics(self, step_s: float) -> dict[str, float]:
        """Returns ``mfu`` (absent if the peak or the FLOPs are not known) and memory.

        Args:
            step_s: Seconds per step, waiting for data included.
        """
        max_rss_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        metrics = {"memory/max_rss_bytes": 1024.0 * max_rss_kib}
        if self._device.type == "cuda":
            metrics["memory/max_cuda_bytes"] = float(torch.cuda.max_memory_allocated(self._device))
        peak = peak_flops(self._device, self._precision)
        if peak is not None and self.flops_per_step and step_s > 0:
            utilization = self.flops_per_step / step_s / peak
            # If it exceeds 1, the peak is wrong: the CPU was busy when its peak was measured.
            if utilization <= 1:
                metrics["mfu"] = utilization
        return metrics


@functools.cache
def peak_flops(device: torch.device, precision: str) -> float | None:
    """Returns a device's peak FLOPs per second: from a table, or measured for a CPU.

    Returns:
        None for a GPU that is not in the table.
    """
    if device.type == "cpu":
        return _measured_cpu_peak(precision)
    name = torch.cuda.get_device_name(device)
    for part, bf16, fp32 in _PEAK_TFLOPS:
        if re.search(rf"\b{part}\b", name):
            return 1e12 * (bf16 if precision == "bf16" else fp32)
    return None


def _measured_cpu_peak(precision: str) -> float:
    """Times a few matrix products, on the threads of this process, and takes the fastest."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    size = _CPU_MATMUL_SIZE
    a = torch.ones(size, size, dtype=dtype)
    seconds = []
    for _ in range(_CPU_MATMUL_ROUNDS):
        start = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)


class _FlopCounter(TorchDispatchMode):
    """Sums FLOPs over operations, without the module tree of ``FlopCounterMode``.

    The hooks of that tree conflict with DeepSpeed's, and the tree is not needed here.
    """

    def __init__(self) -> None:
        super().__init__()
        self.num_flops = 0
        self.is_lost = False
        """Whether a formula has failed, so that the sum is meaningless."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        try:
            self._count(func, args, kwargs, out)
        except (
            Exception
        ):  # a formula fails on operands that it does not know; the operation itself succeeded
            self.is_lost = True
        return out

    def _count(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        if (formula := flop_registry.get(func._overloadpacket)) is not None:
            self.num_flops += formula(*args, **kwargs, out_val=out)
        elif func._overloadpacket is _CPU_ATTENTION:
            self.num_flops += sdpa_flop_count(*(x.shape for x in args[:3]))
        elif func._overloadpacket is _CPU_ATTENTION_BACKWARD:
            self.num_flops += sdpa_backward_flop_count(*(x.shape for x in args[:4]))
