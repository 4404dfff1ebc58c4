"""Checks the devices that models should run on."""

import torch

from lafp.config import ConfigError


def usable_device(device: torch.device | str) -> torch.device:
    """Returns the device after it has copied a tensor there and back.

    Raises:
        ConfigError: PyTorch does not know the device, or this machine does not have it.
    """
    try:
        found = torch.device(device)
        torch.zeros(1, device=found).cpu()
    except (RuntimeError, AssertionError) as error:  # torch raises the latter when built without
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise ConfigError(
            f"device {str(device)!r} cannot be used here ({reason}). Use 'cpu'{_cuda_devices()}."
        ) from None
    return found


def _cuda_devices() -> str:
    if not torch.cuda.is_available():
        return "; this machine has no CUDA device that PyTorch can use"
    last = torch.cuda.device_count() - 1
    return ", or 'cuda:0'" + (f" to 'cuda:{last}'" if last else "")
