"""The stages' image in a pod: what DeepSpeed and Triton need at run time is there, whoever the pod's user is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from support.cluster import NodeCluster
from support.installed import IMAGES, until

NAMESPACE = "tunesmith-images"
STAGES = next(image for image in IMAGES if "stages" in image)
ANY_USER = 1000680000
"""Such as OpenShift gives: unknown to the image."""

# What is compiled on a CPU: an extension of PyTorch by ninja and g++, as DeepSpeed's operators are, and a module by gcc
# with Python's headers, as Triton does for the driver of a GPU.
PROGRAM = """
import json, os, pathlib
from torch.utils.cpp_extension import load_inline
from triton.runtime.build import compile_module_from_src

twice = load_inline("twice", "int twice(int x) { return 2 * x; }", functions=["twice"])
module = '''
#include <Python.h>
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "nothing", 0, -1, 0};
PyMODINIT_FUNC PyInit_nothing(void) { return PyModule_Create(&definition); }
'''
places = [twice.__file__, compile_module_from_src(src=module, name="nothing").__file__, pathlib.Path.home()]
try:
    pathlib.Path("/opt/tunesmith/written").touch()
    writes = True
except OSError:
    writes = False
print(json.dumps({"user": os.getuid(), "twice": twice.twice(21), "places": list(map(str, places)), "writes": writes}))
"""


@pytest.fixture
def cluster(node_cluster: NodeCluster) -> Iterator[NodeCluster]:
    """Yield a cluster that has the image, with a namespace that takes restricted pods only."""
    found = node_cluster
    found.bring([STAGES])
    found.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=600s")  # of an interrupted run
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    found.kubectl(
        "apply",
        "--filename=-",
        objects={"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}},
    )
    # A pod is refused without it; the API server waits for it, but only for a second.
    until(lambda: found.get("serviceaccounts", "--namespace", NAMESPACE)["items"], 120, lambda: "no service account")
    yield found
    found.kubectl("delete", "namespace", NAMESPACE, "--timeout=600s")


def pod() -> dict[str, Any]:
    """Return a pod as the operator makes them, but for the variables: here they are the image's own."""
    container = {
        "name": "stage",
        "image": STAGES,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python", "-c", PROGRAM],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "compiler", "namespace": NAMESPACE},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": ANY_USER,
                "runAsGroup": ANY_USER,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
            "volumes": [{"name": "scratch", "emptyDir": {}}],
        },
    }


def test_compiles_below_scratch_as_anybody(cluster: NodeCluster) -> None:
    """With a read-only root and a user that the image does not know, both compilers work, and write below /scratch."""
    cluster.kubectl("apply", "--filename=-", objects=pod())

    def over() -> str:
        phase: str = cluster.get("pod", "compiler", "--namespace", NAMESPACE)["status"].get("phase", "")
        return phase if phase in ("Succeeded", "Failed") else ""

    until(over, 1200, lambda: cluster.kubectl("describe", "pod", "compiler", "--namespace", NAMESPACE))
    said = cluster.kubectl("logs", "compiler", "--namespace", NAMESPACE).strip()
    told = json.loads(said.splitlines()[-1])
    assert (told["user"], told["twice"], told["writes"]) == (ANY_USER, 42, False)
    extensions, triton, home = told["places"]
    assert extensions.startswith("/scratch/torch_extensions/")
    assert triton.startswith("/scratch/triton/")
    assert home == "/scratch"
