"""The images as they were built: what DeepSpeed and Triton need is there in a pod of any user, and what is in them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from support.cluster import NodeCluster
from support.generator import ROOT
from support.installed import IMAGES, until

sys.path.append(str(ROOT / "hack" / "release"))  # scripts, not a package that is installed

import sbom

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


# --- what is in them -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder with the lists of contents of the images that were built, as `make sbom` writes them."""
    folder = tmp_path_factory.mktemp("release")
    command: list[str | Path] = [sys.executable, ROOT / "hack" / "release" / "sbom.py", "--into", folder]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.mark.parametrize(("image", "package", "debian"), [("operator", "kopf", "libc6"), ("stages", "torch", "gcc")])
def test_lists_of_contents_tell_of_the_images(lists: Path, image: str, package: str, debian: str) -> None:
    """What Python and dpkg say is installed in an image is in its list, with the same versions, and nothing else is."""
    listed = json.loads((lists / f"tunesmith-{image}.cdx.json").read_text(encoding="utf-8"))["components"]
    told = {item["purl"].partition("@")[0]: item["version"] for item in listed}
    with sbom.mounted(sbom.IMAGES[image]) as root:
        python, system = python_says(root), dpkg_says(root)
    assert told[f"pkg:pypi/{package}"] == python[package]
    assert told[f"pkg:deb/debian/{debian}"] == system[debian]
    wanted = {f"pkg:pypi/{name}": version for name, version in python.items()}
    wanted |= {f"pkg:deb/debian/{name.replace('+', '%2B')}": version for name, version in system.items()}
    assert {name: version for name, version in told.items() if "llama-cpp" not in name} == wanted


def python_says(root: Path) -> dict[str, str]:
    """Return what the packages of an image say of themselves: versions by name."""
    places = list(root.glob("opt/tunesmith/venv/lib/python3*/site-packages"))
    found = metadata.distributions(path=[str(place) for place in places])
    return {re.sub(r"[-_.]+", "-", item.name).lower(): item.version for item in found}


def dpkg_says(root: Path) -> dict[str, str]:
    """Return what dpkg knows to be installed in an image: versions by name."""
    shown = "--showformat=${db:Status-Status} ${Package} ${Version}\\n"
    query = ["dpkg-query", f"--admindir={root / 'var' / 'lib' / 'dpkg'}", "--show", shown]
    lines = subprocess.run(query, check=True, capture_output=True, text=True).stdout.splitlines()
    return {name: version for state, name, version in map(str.split, lines) if state == "installed"}
