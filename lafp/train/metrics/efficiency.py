"""How well a training step uses its device: FLOPs, counted once, against its peak; memory."""

import functools
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import (
    flop_registry,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

_PEAK_TFLOPS = (
    # Part of the device's name, dense bf16, fp32 without TF32. The vendor's data sheets.
    ("B200", 2250.0, 75.0),
    ("H100 PCIe", 756.0, 51.0),
    ("H100", 989.0, 67.0),
    ("H200", 989.0, 67.0),
    ("A100", 312.0, 19.5),
    ("L40S", 362.0, 91.6),
    ("A10G", 70.0, 35.0),
    ("A10", 125.0, 31.2),
    ("L4", 121.0, 30.3),
    ("RTX 4090", 165.0, 82.6),
)
# torch's table has the attention of GPUs only.
_CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_CPU_ATTENTION_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
_CPU_MATMUL_SIZE, _CPU_MATMUL_ROUNDS = 1024, 5


class Efficiency:
    """Model FLOPs utilization and memory of this process.

    Args:
        device: Where the model runs.
        precision: Of its matrix products, ``fp32`` or ``bf16``.
        num_rounds: Micro-batches per step.
    """

    def __init__(self, device: torch.device, precision: str, num_rounds: int) -> None:
        self._device, self._precision, self._num_rounds = device, precision, num_rounds
        self.flops_per_step = 0

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Counts the FLOPs of the block: forward and backward pass of one micro-batch.

        Matrix products, convolutions and attention, as ``torch.utils.flop_counter`` counts them;
        activations that a checkpointed block computes again are counted again.
        """
        counter = _FlopCounter()
        with counter:
            yield
        self.flops_per_step = 0 if counter.is_lost else counter.num_flops * self._num_rounds

    def metrics(self, step_s: float) -> dict[str, float]:
        """``mfu`` (absent where the peak or the FLOPs are not known) and memory.

        Args:
            step_s: Seconds of a step, waiting for data included.
        """
        max_rss_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        metrics = {"memory/max_rss_bytes": 1024.0 * max_rss_kib}
        if self._device.type == "cuda":
            metrics["memory/max_cuda_bytes"] = float(torch.cuda.max_memory_allocated(self._device))
        peak = peak_flops(self._device, self._precision)
        if peak is not None and self.flops_per_step and step_s > 0:
            utilization = self.flops_per_step / step_s / peak
            # Above 1 the peak is wrong: a CPU was busy when its peak was measured.
            if utilization <= 1:
                metrics["mfu"] = utilization
        return metrics


@functools.cache
def peak_flops(device: torch.device, precision: str) -> float | None:
    """FLOPs per second that a device can reach at most: by its name, on a CPU measured.

    Returns:
        None for a device that is not in the table.
    """
    if device.type == "cpu":
        return _measured_cpu_peak(precision)
    name = torch.cuda.get_device_name(device)
    for part, bf16, fp32 in _PEAK_TFLOPS:
        if part in name:
            return 1e12 * (bf16 if precision == "bf16" else fp32)
    return None


def _measured_cpu_peak(precision: str) -> float:
    """The fastest of some matrix products, with the threads that this process may use."""
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
    """The sum over operations, without the module tree of ``FlopCounterMode``.

    That tree's hooks do not get on with DeepSpeed's, and nobody asks for it here.
    """

    def __init__(self) -> None:
        super().__init__()
        self.num_flops = 0
        self.is_lost = False
        """Whether a formula has failed, so that the sum says nothing."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        try:
            self._count(func, args, kwargs, out)
        except (
            Exception
        ):  # a formula that does not know some operands; the operation itself is done
            self.is_lost = True
        return out

    def _count(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        if (formula := flop_registry.get(func._overloadpacket)) is not None:
            self.num_flops += formula(*args, **kwargs, out_val=out)
        elif func._overloadpacket is _CPU_ATTENTION:
            self.num_flops += sdpa_flop_count(*(x.shape for x in args[:3]))
        elif func._overloadpacket is _CPU_ATTENTION_BACKWARD:
            self.num_flops += sdpa_backward_flop_count(*(x.shape for x in args[:4]))
