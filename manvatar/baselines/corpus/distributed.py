"""Several processes as one: each has its share of a batch, and losses and gradients are those of the whole batch.

A process started by ``torchrun`` finds the others by the environment; without it there is one, and nothing here costs
anything. Gradients are averaged by ``DistributedDataParallel``; what is not a mean over images needs more: the
statistics of batch norms and losses with means inside, see ``everyones`` in the blocks of the bi-layer model.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Processes:
    number: int  # of this one, from 0
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.number == 0


ALONE = Processes(0, 1, torch.device("cpu"))


@contextmanager
def joined(device: str = "auto") -> Iterator[Processes]:
    """Join the processes that ``torchrun`` has started, for the time of the block; alone without it."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    place = int(os.environ.get("LOCAL_RANK", "0"))
    cuda = device != "cpu" and torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(place)
    here = torch.device("cuda", place) if cuda else torch.device("cpu")
    if count == 1:
        yield Processes(0, 1, here)
        return
    distributed.init_process_group("nccl" if cuda else "gloo")
    try:
        yield Processes(distributed.get_rank(), count, here)
    finally:
        distributed.destroy_process_group()


def shared(module: nn.Module, processes: Processes) -> nn.Module:
    """``module`` as one of many processes has it: its gradients are averaged over all. All start with equal weights."""
    if processes.count == 1:
        return module
    devices = [processes.device] if processes.device.type == "cuda" else None
    # Buffers are equal without being sent: statistics are everyone's, and weights are the same everywhere.
    return DistributedDataParallel(module, device_ids=devices, broadcast_buffers=False)


def average(gradient: torch.Tensor, processes: Processes) -> None:
    """In place, over all processes: for what is trained beside a module that :func:`shared` has wrapped."""
    if processes.count > 1:
        distributed.all_reduce(gradient)
        gradient /= processes.count
