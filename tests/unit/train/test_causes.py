import pytest

from tunesmith_stages.contract import ExitCode, Failure
from tunesmith_stages.train.causes import root_cause
from tunesmith_stages.train.exchange import NO_RANK, RankExit


def left(rank: int, code: ExitCode, message: str, time: float = 0.0) -> RankExit:
    return RankExit(rank, time, Failure(code, "Reason", message, "hint"))


LOST = "RuntimeError: [gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:2345"
CASES = [
    pytest.param(
        [left(0, ExitCode.INTERNAL, LOST), left(1, ExitCode.BAD_DATA, "token 99")],
        {0: 70, 1: 65},
        (ExitCode.BAD_DATA, "token 99"),
        id="a rank that knows why beats one that lost it",
    ),
    pytest.param(
        [left(1, ExitCode.NO_SPACE, "disk", 1.0), left(0, ExitCode.OUT_OF_MEMORY, "later", 2.0)],
        {0: 79, 1: 74},
        (ExitCode.NO_SPACE, "disk"),
        id="the earliest of two that know why",
    ),
    pytest.param(
        [left(0, ExitCode.INTERNAL, LOST)],
        {0: 70, 1: -9},
        (ExitCode.OUT_OF_MEMORY, "rank 1 was killed (SIGKILL)"),
        id="a killed rank beats those that lost it",
    ),
    pytest.param([], {0: -15, 1: -9}, (ExitCode.OUT_OF_MEMORY, "rank 1 was killed"), id="a kill beats what it made"),
    pytest.param([], {1: -11}, (ExitCode.INTERNAL, "rank 1 crashed (SIGSEGV)"), id="a crash"),
    pytest.param([], {0: -15}, (ExitCode.INTERRUPTED, "SIGTERM"), id="a rank stopped from outside"),
    pytest.param(
        [left(0, ExitCode.INTERNAL, LOST), left(1, ExitCode.INTERNAL, "ValueError: shape")],
        {0: 70, 1: 70},
        (ExitCode.INTERNAL, "ValueError: shape"),
        id="an error beats the loss of its rank",
    ),
    pytest.param(
        [left(0, ExitCode.INTERNAL, "ValueError: shape")],
        {0: 70, 1: -15},
        (ExitCode.INTERNAL, "ValueError: shape"),
        id="an error beats what torchrun stopped for it",
    ),
    pytest.param(
        [left(0, ExitCode.INTERNAL, LOST)],
        {0: 70, 1: -15},
        (ExitCode.INTERRUPTED, "rank 1 was stopped by SIGTERM"),
        id="a rank stopped from outside beats those that lost it",
    ),
    pytest.param([], {}, (ExitCode.INTERNAL, "last words"), id="nothing but a log"),
]


@pytest.mark.parametrize(("exits", "codes", "expected"), CASES)
def test_names_the_root_cause(exits: list[RankExit], codes: dict[int, int], expected: tuple[ExitCode, str]) -> None:
    """What is reported is what began it, not what followed from it, and never torchrun's own 1."""
    failure = root_cause(exits, codes, 1, "last words")
    assert failure.code is expected[0]
    assert expected[1] in failure.message


GLOO = (
    "RuntimeError: [/pytorch/third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 1800000ms for "
    "recv operation to complete"
)
CLOSED = (
    "RuntimeError: [/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:454] Application timeout caused pair closure"
)
STORE = (
    "torch.distributed.DistBackendError: [1] is setting up NCCL communicator and retrieving ncclUniqueId from [0] via "
    "c10d key-value store by store->get('0'), but store->get('0') got error: wait timeout after 1800000ms, keys: "
    "/default_pg/0//cuda//0"
)
NCCL = (
    "[rank0]:[E810 03:04:11.061727749 ProcessGroupNCCL.cpp:683] [Rank 0] Watchdog caught collective operation timeout: "
    "WorkNCCL(SeqNum=78, OpType=BROADCAST, NumelIn=80, NumelOut=80, Timeout(ms)=1800000) ran for 1800096 milliseconds "
    "before timing out."
)
ABORTED = (
    "torch.distributed.DistBackendError: NCCL communicator was aborted on rank 2. Original reason for failure was: "
    + NCCL.partition("] ")[2]
)
DUMPED = (
    "[rank1]:[E909 08:45:31.970959174 ProcessGroupNCCL.cpp:1870] [PG ID 0 PG GUID 0(default_pg) Rank 1] Received a "
    "dump signal due to a collective timeout from  rank 0 and we will try our best to dump the debug info. Last "
    "enqueued NCCL work: 77, last completed NCCL work: 77."
)
STALLED = [
    pytest.param([GLOO], {0: 70, 1: -15}, "rank 0", id="Gloo; torchrun stops the one that hangs"),
    pytest.param([GLOO, CLOSED, LOST], {0: 70, 1: 70, 2: 70}, "rank 0 and rank 1", id="Gloo, and who lost those"),
    pytest.param([NCCL], {0: -6, 1: -15}, "rank 0", id="NCCL's watchdog"),
    pytest.param([NCCL, DUMPED, ABORTED], {0: -6, 1: -6, 2: 70}, "rank 0 and rank 1 and rank 2", id="and of others"),
    pytest.param([STORE], {0: 70}, "rank 0", id="before NCCL has begun"),
]


@pytest.mark.parametrize(("messages", "codes", "who"), STALLED)
def test_waiting_in_vain_is_a_stall(messages: list[str], codes: dict[int, int], who: str) -> None:
    """Nobody knows more than that others did nothing: it is tried again, as where the program sees the hang first."""
    exits = [left(rank, ExitCode.INTERNAL, message) for rank, message in enumerate(messages)]
    failure = root_cause(exits, codes, 70, "last words")
    assert (failure.code, failure.reason) == (ExitCode.TEMPORARY, "TrainingStalled")
    assert failure.message.startswith(f"{who} waited for other ranks for longer than `ddpTimeoutSeconds`")
    assert messages[0] in failure.message


@pytest.mark.parametrize(
    ("more", "codes", "lost", "expected"),
    [
        pytest.param([left(1, ExitCode.INTERNAL, "KeyError: 'x'")], {}, [], "KeyError: 'x'", id="an error"),
        pytest.param([], {1: -9}, [], "rank 1 was killed (SIGKILL)", id="a killed rank"),
        pytest.param([], {}, ["node 1"], "node 1 was lost", id="a lost node"),
    ],
)
def test_a_known_cause_beats_a_stall(
    more: list[RankExit], codes: dict[int, int], lost: list[str], expected: str
) -> None:
    """Ranks wait in vain because of something; where that is known, it is what is told."""
    failure = root_cause([left(0, ExitCode.INTERNAL, GLOO), *more], codes, 70, "", lost=lost)
    assert failure.message.startswith(expected)


def test_an_exit_code_is_enough_on_a_full_disk() -> None:
    """Where no rank can leave its reason, its exit code still names the class."""
    assert root_cause([], {}, int(ExitCode.NO_SPACE), "").code is ExitCode.NO_SPACE


@pytest.mark.parametrize(
    ("no_memory", "expected"),
    [
        pytest.param(True, ExitCode.OUT_OF_MEMORY, id="the kernel did"),
        pytest.param(False, ExitCode.TEMPORARY, id="somebody else did"),
        pytest.param(None, ExitCode.OUT_OF_MEMORY, id="nobody can tell"),
    ],
)
def test_who_killed_a_rank(no_memory: bool | None, expected: ExitCode) -> None:
    """A kill is taken for want of memory unless the kernel counts none: that of the rank's own node."""
    assert root_cause([], {1: -9}, 1, "", no_memory=no_memory).code is expected
    for here in (True, False):
        there = root_cause([], {1: -9}, 1, "", elsewhere={1: "there"}, no_memory=here, starved={1: no_memory})
        assert there.code is expected


@pytest.mark.parametrize(("no_memory", "expected"), [(True, ExitCode.OUT_OF_MEMORY), (False, ExitCode.TEMPORARY)])
def test_who_killed_a_process_that_reads_rows(no_memory: bool, expected: ExitCode) -> None:
    """The kernel may end a rank's helper instead of the rank, which then tells of it as PyTorch does."""
    said = [left(0, ExitCode.INTERNAL, "RuntimeError: DataLoader worker (pid 7275) is killed by signal: Killed. ")]
    failure = root_cause([*said, left(1, ExitCode.INTERNAL, LOST)], {0: 70, 1: -15}, 70, "", no_memory=no_memory)
    assert failure.code is expected
    assert "a process that reads rows for rank 0 was killed" in failure.message


def test_a_killed_launcher_is_told() -> None:
    """Torchrun itself may be what the kernel kills."""
    assert root_cause([], {}, -9, "").code is ExitCode.OUT_OF_MEMORY


def test_a_kill_by_somebody_is_named() -> None:
    """Where the kernel counts no want of memory, the reason says that somebody did it."""
    assert root_cause([], {1: -9}, 1, "", no_memory=False).reason == "RankKilled"


ELSEWHERE = {1: "rank 1 on node 1 (pod-1)"}
OVER_NODES = [
    pytest.param(
        [left(0, ExitCode.INTERNAL, LOST), left(1, ExitCode.BAD_DATA, "token 99")],
        {},
        [],
        (ExitCode.BAD_DATA, "rank 1 on node 1 (pod-1): token 99"),
        id="another node's rank knows why",
    ),
    pytest.param(
        [left(0, ExitCode.INTERNAL, LOST)],
        {0: 70, 1: -9},
        [],
        (ExitCode.OUT_OF_MEMORY, "rank 1 on node 1 (pod-1) was killed (SIGKILL)"),
        id="another node's rank was killed",
    ),
    pytest.param(
        [left(0, ExitCode.INTERNAL, LOST)],
        {0: 70},
        ["node 1 (pod-1)"],
        (ExitCode.TEMPORARY, "node 1 (pod-1) was lost"),
        id="a lost node beats those that lost it",
    ),
    pytest.param(
        [left(0, ExitCode.INTERNAL, "RuntimeError: words of a library that nobody knows")],
        {0: 70},
        ["node 1 (pod-1)", "node 2 (pod-2)"],
        (ExitCode.TEMPORARY, "node 1 (pod-1) and node 2 (pod-2) were lost"),
        id="and errors that may follow from it",
    ),
    pytest.param(
        [left(0, ExitCode.NO_SPACE, "disk")],
        {0: 74},
        ["node 1 (pod-1)"],
        (ExitCode.NO_SPACE, "disk"),
        id="a rank that knows why beats a lost node",
    ),
    pytest.param(
        [left(NO_RANK, ExitCode.INTERRUPTED, "node 1: stopped by SIGTERM"), left(0, ExitCode.INTERNAL, LOST)],
        {0: 70},
        [],
        (ExitCode.INTERRUPTED, "node 1: stopped by SIGTERM"),
        id="a node's program was stopped",
    ),
]


@pytest.mark.parametrize(("exits", "codes", "lost", "expected"), OVER_NODES)
def test_names_the_node(
    exits: list[RankExit], codes: dict[int, int], lost: list[str], expected: tuple[ExitCode, str]
) -> None:
    """With several nodes the report says on which of them it began: that is where the person must look."""
    failure = root_cause(exits, codes, 1, "last words", elsewhere=ELSEWHERE, lost=lost)
    assert (failure.code, failure.message[: len(expected[1])]) == expected


def test_a_lost_node_has_a_reason_of_its_own() -> None:
    """A node that is gone without a word may come back: it is tried again, and its pod is where to look."""
    failure = root_cause([left(0, ExitCode.INTERNAL, LOST)], {0: 70}, 1, "last words", lost=["node 1 (pod-1)"])
    assert (failure.code, failure.reason) == (ExitCode.TEMPORARY, "NodeLost")
    assert "pod" in failure.hint


CUDA = "torch.AcceleratorError: CUDA error: uncorrectable ECC error encountered"


def test_the_log_of_ranks_that_left_no_word_is_read() -> None:
    """Where nothing but a log is left, what libraries write there says what it was."""
    failure = root_cause([], {}, 1, f"step 3\n{CUDA}\n")
    assert (failure.code, failure.reason) == (ExitCode.TEMPORARY, "GpuFault")
    assert CUDA in failure.message


@pytest.mark.parametrize(
    ("messages", "codes", "expected"),
    [
        pytest.param([LOST, LOST], {0: 70, 1: 70}, (ExitCode.TEMPORARY, "ConnectionLost"), id="each other, no more"),
        pytest.param([LOST, "unhandled system error"], {}, (ExitCode.TEMPORARY, "NcclFailed"), id="NCCL"),
        pytest.param([GLOO, "ncclSystemError: no"], {}, (ExitCode.TEMPORARY, "NcclFailed"), id="NCCL beats who waited"),
        pytest.param([LOST, "KeyError: 'x'"], {}, (ExitCode.INTERNAL, "Reason"), id="an error beats the loss"),
        pytest.param(["ncclSystemError: no"], {1: -9}, (ExitCode.OUT_OF_MEMORY, "OutOfMemory"), id="a kill beats NCCL"),
    ],
)
def test_what_ranks_tell_of_each_other(
    messages: list[str], codes: dict[int, int], expected: tuple[ExitCode, str]
) -> None:
    """A network that failed may pass, and so it is told where nothing else ended the training."""
    exits = [left(rank, ExitCode.INTERNAL, message) for rank, message in enumerate(messages)]
    failure = root_cause(exits, codes, 70, "last words")
    assert (failure.code, failure.reason) == expected
