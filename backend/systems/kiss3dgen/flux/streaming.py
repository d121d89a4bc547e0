"""A large network on a small card: its blocks stay in main memory and visit the device one after the other.

Blocks for which there is room stay on the device; the others are copied there when they are called and leave
afterwards. Nothing of the network itself changes, so every class with a list of blocks can be treated so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

Home = list[tuple[nn.Module, str, bool, Tensor]]
"""(module, name of the tensor in it, whether it is a parameter, the tensor in main memory)."""


def stream_blocks(network: nn.Module, parts: Sequence[str], device: torch.device, room: int) -> int:
    """Place `network` (on the CPU) so that blocks of the lists `parts` use at most `room` bytes of `device` at rest.

    Everything outside the lists moves to the device. Returns how many blocks are left to visit.
    """
    streamed = 0
    for block in blocks_of(network, parts):
        size = module_bytes(block)
        if size <= room:
            room -= size
            block.to(device)
            continue
        streamed += 1
        home = _homes(block, pin=device.type == "cuda")
        block.register_forward_pre_hook(partial(_visit, home, device))
        block.register_forward_hook(partial(_leave, home))
    inside = {id(module) for block in blocks_of(network, parts) for module in block.modules()}
    for module in network.modules():
        if id(module) not in inside:
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    module._parameters[name] = nn.Parameter(parameter.to(device), requires_grad=False)
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = buffer.to(device)
    return streamed


def blocks_of(network: nn.Module, parts: Sequence[str]) -> Iterator[nn.Module]:
    """Every block of the lists called `parts`, in order."""
    for part in parts:
        blocks: Any = network.get_submodule(part)
        yield from blocks


def module_bytes(module: nn.Module) -> int:
    """Bytes of all parameters and buffers."""
    return sum(
        tensor.numel() * tensor.element_size()
        for tensors in (module.parameters(), module.buffers())
        for tensor in tensors
    )


def _homes(block: nn.Module, pin: bool) -> Home:
    home: Home = []
    for module in block.modules():
        for is_parameter, tensors in ((True, module._parameters), (False, module._buffers)):
            for name, tensor in tensors.items():
                if tensor is not None:
                    data = tensor.data.pin_memory() if pin else tensor.data
                    home.append((module, name, is_parameter, data))
    _leave(home)
    return home


def _visit(home: Home, device: torch.device, *_: Any) -> None:
    for module, name, is_parameter, tensor in home:
        _put(module, name, is_parameter, tensor.to(device, non_blocking=True))


def _leave(home: Home, *_: Any) -> None:
    for module, name, is_parameter, tensor in home:
        _put(module, name, is_parameter, tensor)


def _put(module: nn.Module, name: str, is_parameter: bool, tensor: Tensor) -> None:
    if is_parameter:
        module._parameters[name] = nn.Parameter(tensor, requires_grad=False)
    else:
        module._buffers[name] = tensor
