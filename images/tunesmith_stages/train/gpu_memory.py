"""How much memory of the GPUs is in use, as PyTorch's allocator counts it."""

from __future__ import annotations

import torch
import torch.distributed as dist


def gpu_memory(device: torch.device) -> dict[str, int]:
    """Return the bytes that tensors take on the fullest GPU, now and at most so far; nothing on a CPU.

    Every rank must call this. What the CUDA context, NCCL and the allocator's reserve take comes on top.
    """
    if device.type != "cuda":
        return {}
    used = [torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device)]
    highest = torch.tensor(used, dtype=torch.int64, device=device)
    dist.all_reduce(highest, op=dist.ReduceOp.MAX)
    now, peak = highest.tolist()
    return {"gpu_memory": now, "peak_gpu_memory": peak}
