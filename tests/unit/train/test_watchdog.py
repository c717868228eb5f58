"""What is found in the log of a rank that NCCL's watchdog aborted."""

import signal
from pathlib import Path

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError
from tunesmith_stages.train.causes import root_cause
from tunesmith_stages.train.exchange import RankExit
from tunesmith_stages.train.watchdog import with_aborted

SAID = (
    "[rank1]:[E810 03:04:11.061727749 ProcessGroupNCCL.cpp:683] [Rank 1] Watchdog caught collective operation timeout: "
    "WorkNCCL(SeqNum=78, OpType=BROADCAST, NumelIn=80, NumelOut=80, Timeout(ms)=1800000) ran for 1800096 milliseconds "
    "before timing out."
)
LOG = f"""step 77
{SAID}
[rank1]:[E810 03:04:11.061970000 ProcessGroupNCCL.cpp:744] [Rank 1] Some NCCL operations have failed or timed out.
[rank1]:[E810 03:04:11.061980000 ProcessGroupNCCL.cpp:758] [Rank 1] To avoid data inconsistency, we are taking the \
entire process down.
terminate called after throwing an instance of 'c10::DistBackendError'
  what():  [PG ID 0 PG GUID 0(default_pg) Rank 1] Process group watchdog thread terminated with exception: [Rank 1] \
Watchdog caught collective operation timeout
frame #0: c10::Error::Error(c10::SourceLocation, std::string) + 0x98 (0x7f in libc10.so)
"""
ABORT = -signal.SIGABRT


def test_a_rank_that_the_watchdog_aborted_is_heard(tmp_path: Path) -> None:
    """It cannot leave a reason itself; with its log it is a stall, without it would be a crash."""
    (tmp_path / "rank-1.log").write_text("x" * (1 << 21) + "\n" + LOG)
    found = with_aborted([], {1: ABORT}, tmp_path)
    assert [(left.rank, left.failure.code, left.failure.message) for left in found] == [(1, ExitCode.INTERNAL, SAID)]
    assert root_cause(found, {1: ABORT}, 1, "").reason == "TrainingStalled"
    assert root_cause([], {1: ABORT}, 1, "").reason == "RankCrashed"


def test_what_the_watchdog_did_not_do_is_not_its(tmp_path: Path) -> None:
    """Ranks that aborted for another reason, ended otherwise, or have spoken for themselves stay as they are."""
    spoken = RankExit(3, 1.0, StageError(ExitCode.BAD_DATA, "token 99").failure())
    for rank in (0, 2, 3):
        (tmp_path / f"rank-{rank}.log").write_text(LOG if rank else "free(): invalid pointer\n")
    codes = {0: ABORT, 1: ABORT, 2: -signal.SIGTERM, 3: ABORT}  # rank 1 has no log
    assert with_aborted([spoken], codes, tmp_path) == [spoken]


ECC = """step 77
[W socket.cpp:755] [c10d] The client socket has failed to connect to node-1: Connection refused
terminate called after throwing an instance of 'c10::DistBackendError'
  what():  [PG ID 0 Rank 1] Process group watchdog thread terminated with exception: CUDA error: uncorrectable \
ECC error encountered
"""


def test_a_rank_whose_gpu_broke_is_heard(tmp_path: Path) -> None:
    """The watchdog aborts a rank under which CUDA fails, too: the log says how; what was long past counts no more."""
    (tmp_path / "rank-1.log").write_text(ECC)
    failure = root_cause(with_aborted([], {1: ABORT}, tmp_path), {1: ABORT}, 1, "")
    assert (failure.code, failure.reason) == (ExitCode.TEMPORARY, "GpuFault")
    (tmp_path / "rank-1.log").write_text(ECC.partition("terminate")[0])
    assert root_cause(with_aborted([], {1: ABORT}, tmp_path), {1: ABORT}, 1, "").reason == "RankCrashed"
