"""What an error in a rank means."""

from __future__ import annotations

import pytest

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.train.worker import failure_of

NO_MEMORY = {
    "PyTorch's allocator for GPUs": "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of ...",
    "PyTorch's allocator for the CPU": "DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes.",
    "CUDA": "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call",
    "CUDA's driver": "CUDA driver error: out of memory",
    "cuBLAS": "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cuDNN": "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "Triton": "Triton Error [CUDA]: out of memory",
    "NCCL": "NCCL error in: ProcessGroupNCCL.cpp:77, unhandled cuda error\nCuda failure 2 'out of memory'",
    "NCCL's buffers": "NCCL error in: ProcessGroupNCCL.cpp:77\nLast error:\nFailed to CUDA calloc async 608 bytes",
}


@pytest.mark.parametrize("case", NO_MEMORY)
def test_memory_that_ran_out_is_told_as_such(case: str) -> None:
    """Whoever says it: `onOutOfMemory: Reduce` goes by it."""
    assert failure_of(RuntimeError(NO_MEMORY[case])).code is ExitCode.OUT_OF_MEMORY


@pytest.mark.parametrize("text", ["CUDA error: unspecified launch failure", "cuda is there\nthe list is out of memory"])
def test_what_is_no_want_of_memory(text: str) -> None:
    """Another error of a GPU is not."""
    assert failure_of(RuntimeError(text)).code is ExitCode.INTERNAL


def test_how_a_process_that_reads_rows_ended_is_told() -> None:
    """PyTorch says so in the cause of its error, and by that the kernel's part in it is found out."""
    error = RuntimeError("DataLoader worker (pid(s) 7270) exited unexpectedly")
    error.__cause__ = RuntimeError("DataLoader worker (pid 7270) is killed by signal: Killed. ")
    assert "is killed by signal: Killed" in failure_of(error).message
