"""The environment of a stage program."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tunesmith.api.settings import Network, Settings
from tunesmith.core.manifests.child import Child, child_name
from tunesmith.core.manifests.places import CA_FILE, CONFIG, SCRATCH
from tunesmith.core.manifests.quantity import parse_quantity
from tunesmith.core.manifests.sources import token_variables
from tunesmith.core.manifests.tracking import tracker_variables
from tunesmith.core.manifests.training import MASTER_PORT, master_address
from tunesmith_stages.contract import StageName

Variables = list[dict[str, Any]]

ATTEMPT = "TUNESMITH_ATTEMPT"
"""Names this try among all tries at a unit of work."""


def environment(child: Child, settings: Settings, options: dict[str, Any]) -> Variables:
    """Return the variables of a child's container; what a program cannot do without goes over what `options` say."""
    needed = {**places(), **_trust(settings.network), **_hubs(child, settings.network)}
    if child.nodes > 1:
        needed |= {"TUNESMITH_MASTER_ADDR": master_address(child), "TUNESMITH_MASTER_PORT": str(MASTER_PORT)}
    threads = {"OMP_NUM_THREADS": str(_threads(child, options["resources"]["limits"]["cpu"]))}
    attempt = [] if child.lookup else [_attempt(child)]
    given = [*token_variables(child), *tracker_variables(child, settings)]
    variables = [*_listed(threads), *options.get("env", ()), *attempt, *_listed(needed), *given]
    return list({item["name"]: item for item in variables}.values())


def _listed(values: Mapping[str, str]) -> Variables:
    return [{"name": name, "value": value} for name, value in values.items()]


def _attempt(child: Child) -> dict[str, Any]:
    """Return the attempt's name: the pod's, because a Job may replace its pod; pods that work together share one."""
    if child.nodes > 1:
        return {"name": ATTEMPT, "value": child_name(child)}
    return {"name": ATTEMPT, "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}


def places() -> dict[str, str]:
    """Return where programs may leave what they compile and cache."""
    return {
        "HOME": SCRATCH,
        "TMPDIR": SCRATCH,
        "MPLCONFIGDIR": f"{SCRATCH}/matplotlib",
        "TORCH_EXTENSIONS_DIR": f"{SCRATCH}/torch_extensions",
        "TRITON_CACHE_DIR": f"{SCRATCH}/triton",
        "USER": "tunesmith",  # the pod's user has no entry in /etc/passwd, and getpass.getuser() asks here first
    }


def _trust(network: Network) -> dict[str, str]:
    """Name the administrator's certificates to the program, which trusts them besides the public authorities."""
    return {"TUNESMITH_CA_FILE": f"{CONFIG}/{CA_FILE}"} if network.ca_bundle else {}


def _hubs(child: Child, network: Network) -> dict[str, str]:
    """Return what tells `fetch` the way to the hubs, and every other stage that there is none."""
    if child.stage.name is not StageName.FETCH or child.lookup:
        return {"HF_HUB_OFFLINE": "1"}
    values = {
        "HTTP_PROXY": network.http_proxy,
        "HTTPS_PROXY": network.https_proxy,
        "NO_PROXY": network.no_proxy,
        "HF_ENDPOINT": network.hugging_face_endpoint,
        "MODELSCOPE_ENDPOINT": network.model_scope_endpoint,
    }
    return {name: value for name, value in values.items() if value}


def _threads(child: Child, cpus: str) -> int:
    """Return the OpenMP threads of one process: programs would count the node's cores, of which they get a part."""
    processes = child.job.spec.training.processes if child.trains else 1
    return max(1, int(parse_quantity(cpus)) // processes)
