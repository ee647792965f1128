"""Where a worker stands among all workers, and how they exchange numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed
from torch import Tensor


@dataclass(frozen=True)
class Place:
    """One worker among `world_size`."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = torch.device("cpu")

    def gather(self, values: Tensor) -> Tensor:
        """Return the values (N,) of every worker as (world_size, N) on the CPU, by rank."""
        if self.world_size == 1:
            return values.cpu()[None]
        values = values.to(self.device)
        everyone = [torch.empty_like(values) for _ in range(self.world_size)]
        torch.distributed.all_gather(everyone, values)
        return torch.stack(everyone).cpu()
