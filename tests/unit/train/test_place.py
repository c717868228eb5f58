import pytest

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError
from tunesmith_stages.train.place import Place, read_place

POD = {"JOB_COMPLETION_INDEX": "1", "TUNESMITH_MASTER_ADDR": "job-0.job.team.svc"}


def test_a_pod_finds_its_place() -> None:
    """Kubernetes gives the number, the Service the name, and the port has a default."""
    assert read_place(2, POD) == Place(1, 2, "job-0.job.team.svc", 29400)
    assert read_place(2, {**POD, "TUNESMITH_MASTER_PORT": "1234"}) == Place(1, 2, "job-0.job.team.svc", 1234)


def test_a_training_on_one_node_asks_nobody() -> None:
    """Whatever the environment holds: a command line may itself run in a pod of some Indexed Job."""
    assert read_place(1, {}) is None
    assert read_place(1, {"JOB_COMPLETION_INDEX": "7"}) is None


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        pytest.param({"JOB_COMPLETION_INDEX": ""}, "JOB_COMPLETION_INDEX must be a number from 0 to 1", id="no number"),
        pytest.param({"JOB_COMPLETION_INDEX": "2"}, "from 0 to 1, got '2'", id="number too high"),
        pytest.param({"JOB_COMPLETION_INDEX": "-1"}, "got '-1'", id="negative number"),
        pytest.param({"TUNESMITH_MASTER_ADDR": ""}, "TUNESMITH_MASTER_ADDR must be the host name", id="no master"),
        pytest.param({"TUNESMITH_MASTER_PORT": "0"}, "TUNESMITH_MASTER_PORT must be a number from 1", id="port 0"),
        pytest.param({"TUNESMITH_MASTER_PORT": "http"}, "got 'http'", id="port by name"),
    ],
)
def test_refuses_a_place_that_is_none(environ: dict[str, str], words: str) -> None:
    """A pod that does not know its place would wait for 15 minutes, or train beside the others."""
    with pytest.raises(StageError) as caught:
        read_place(2, {**POD, **environ})
    assert (caught.value.code, caught.value.reason) == (ExitCode.BAD_CONFIG, "NodeUnplaced")
    assert words in caught.value.message
