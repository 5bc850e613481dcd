"""Devices by PyTorch's names, and by those that MONAI Label tells its clients."""

from __future__ import annotations

import torch
from monailabel.utils.others.generic import device_list, device_map

from scripts.errors import InputError
from scripts.training.devices import choose_device


def device_called(name: str) -> torch.device | None:
    """
    A device that this machine has; None, for the config's own choice, without a name.

    Raises:
        InputError: when it has none of that name.
    """
    if not name:
        return None
    try:
        return choose_device(device_map().get(name, name))
    except InputError as error:
        raise InputError(f"device is {name!r}, expected one of {', '.join(device_list())}, or cpu.") from error
