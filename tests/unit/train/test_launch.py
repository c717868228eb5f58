from pathlib import Path

import psutil
import pytest

from support.prepared import PARAMS, RUNTIME
from tunesmith_stages.train.launch import Launch, Meeting, torchrun_arguments
from tunesmith_stages.train.ranks import environment, interface_of, torchrun_log
from tunesmith_stages.train.settings import Settings, read_settings

MEETING = Meeting(1, 3, "10.0.0.7", 41000, "127.0.0.1")


def settings(**runtime: object) -> Settings:
    return read_settings(PARAMS, {**RUNTIME, **runtime})


@pytest.mark.parametrize("launch", [Launch(1, Path("/v/a"), 2, None), Launch(7, Path("/v/a"), 8, MEETING)])
def test_the_launcher_is_told_all(launch: Launch) -> None:
    """What is passed as one argument comes back as it was."""
    assert Launch.from_json(launch.to_json()) == launch


def test_one_node_meets_on_loopback() -> None:
    """A training on one machine opens no port to others."""
    arguments = torchrun_arguments(Launch(1, Path("/v/a"), 2, None))
    assert {"--standalone", "--local-addr=127.0.0.1", "--nnodes=1", "--nproc-per-node=2"} <= set(arguments)


def test_several_nodes_meet_at_node_0_by_number() -> None:
    """The static rendezvous gives each node its number, so that rank 0 is on node 0, where the result is published."""
    arguments = torchrun_arguments(Launch(1, Path("/v/a"), 8, MEETING))
    assert arguments[:6] == [
        "--rdzv-backend=static",
        "--nnodes=3",
        "--node-rank=1",
        "--master-addr=10.0.0.7",
        "--master-port=41000",
        "--nproc-per-node=8",
    ]
    assert "--max-restarts=0" in arguments


def test_torchrun_of_each_node_has_a_log_of_its_own() -> None:
    """Two machines that append to one file on NFS overwrite each other."""
    assert [torchrun_log(Path("a"), node).name for node in (0, 1)] == ["torchrun.log", "torchrun-1.log"]


def test_ranks_are_not_given_a_trackers_token() -> None:
    """It is for the process that asks the tracker, wherever it comes from."""
    tokens = ("TUNESMITH_TRACKING_TOKEN", "WANDB_API_KEY", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD")
    made = environment(settings(), None, {**dict.fromkeys(tokens, "secret"), "WANDB_BASE_URL": "http://here"})
    assert "secret" not in made.values()
    assert made["WANDB_BASE_URL"] == "http://here"


def test_ranks_inherit_the_pods_environment() -> None:
    """What is set for RDMA reaches NCCL; what the training cannot do without goes over it."""
    made = environment(settings(graceSeconds=100), None, {"NCCL_IB_HCA": "mlx5_0", "HF_HUB_OFFLINE": "0"})
    assert (made["NCCL_IB_HCA"], made["HF_HUB_OFFLINE"]) == ("mlx5_0", "1")
    assert made["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] == "90"


@pytest.mark.parametrize(("gpus", "kept"), [pytest.param(0, True, id="CPU"), pytest.param(2, False, id="GPUs")])
def test_ranks_on_the_cpu_keep_their_memory(gpus: int, kept: bool) -> None:
    """Where tensors are the C library's memory it is kept from pass to pass, unless the environment says otherwise."""
    made = environment(settings(gpusPerNode=gpus), None, {"MALLOC_ARENA_MAX": "4"})
    assert ("MALLOC_TRIM_THRESHOLD_" in made, made["MALLOC_ARENA_MAX"]) == (kept, "4")


LOOPBACK = interface_of("127.0.0.1")


@pytest.mark.parametrize(
    ("meeting", "gpus", "environ", "expected"),
    [
        pytest.param(None, 0, {}, ("lo", None), id="one node on CPU stays within the machine"),
        pytest.param(None, 2, {}, (None, None), id="one node on GPUs is NCCL's own affair"),
        pytest.param(MEETING, 0, {}, (LOOPBACK, LOOPBACK), id="several use the interface by which they met"),
        pytest.param(MEETING, 2, {}, (LOOPBACK, LOOPBACK), id="so do those with GPUs"),
        pytest.param(MEETING, 2, {"NCCL_SOCKET_IFNAME": "=ib0"}, (LOOPBACK, "=ib0"), id="NCCL's is given"),
        pytest.param(MEETING, 0, {"GLOO_SOCKET_IFNAME": "net1"}, ("net1", LOOPBACK), id="Gloo's is given"),
    ],
)
def test_chooses_the_network_interface(
    meeting: Meeting | None, gpus: int, environ: dict[str, str], expected: tuple[str | None, str | None]
) -> None:
    """The one that leads to the other nodes, unless the pod's environment names another."""
    made = environment(settings(gpusPerNode=gpus), meeting, environ)
    assert (made.get("GLOO_SOCKET_IFNAME"), made.get("NCCL_SOCKET_IFNAME")) == expected


def test_an_interface_is_found_by_any_of_its_addresses() -> None:
    """By IPv4 or IPv6, with or without the zone that link-local addresses have; nobody's address has none."""
    for name, addresses in psutil.net_if_addrs().items():
        for address in addresses:
            assert interface_of(address.address) in psutil.net_if_addrs()
            if address.address not in {"00:00:00:00:00:00", "127.0.0.1", "::1"} and "%" not in address.address:
                assert interface_of(address.address) == name
    assert LOOPBACK is not None
    assert interface_of("192.0.2.1") is None
