"""Puts images from buildah's storage into the test cluster.

    python hack/testcluster/load_image.py [--name CLUSTER] IMAGE ...

An image that the cluster has already, by its id, is left alone. Of one that is like another only the layers come that
the cluster lacks; a large one that is new to it comes without an archive on disk.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "toolchain"))

from layout import Layout
from making import run_main, tell
from running import is_up

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError

_LITTLE = 2**30
"""Bytes of layers that may lie on the disk for a moment."""


def load(layout: Layout, image: str) -> bool:
    """Give the cluster an image; return whether it had to be brought.

    Raises:
        StageError: buildah has no such image, or bringing it failed.
    """
    wanted = built_id(image)
    if wanted is None:
        raise StageError(
            ExitCode.MISSING_INPUT,
            f"there is no image `{image}` in buildah's storage",
            reason="ImageMissing",
            hint="Build it first (`make images`); `buildah images` lists what there is.",
        )
    if wanted == loaded_id(layout, image):
        return False
    begun = time.monotonic()
    layers, kept = _layers(wanted), _content(layout)
    there = {layer: size for layer, size in layers.items() if layer in kept}
    if sum(layers.values()) - sum(there.values()) < _LITTLE:
        _bring_missing(layout, image, wanted, there)
    else:
        _bring(layout, image, wanted)
    if loaded_id(layout, image) != wanted:
        raise _failed(image, "the cluster has another image by that name afterwards")
    tell(f"{image}: brought into the cluster in {time.monotonic() - begun:.0f} s")
    return True


def built_id(image: str) -> str | None:
    """Return the id of an image in buildah's storage, or none if it is not there."""
    asked = ["buildah", "inspect", "--type=image", "--format={{.FromImageID}}", image]
    done = subprocess.run(asked, check=False, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


def loaded_id(layout: Layout, image: str) -> str | None:
    """Return the id of an image in the cluster, or none if it is not there."""
    listed = subprocess.run(_ctr(layout, "images", "ls", f"name=={image}"), check=True, capture_output=True, text=True)
    rows = [line.split() for line in listed.stdout.splitlines()[1:]]
    if not rows:
        return None
    manifest = rows[0][2]  # columns: name, type, digest, ...
    told = subprocess.run(_ctr(layout, "content", "get", manifest), check=True, capture_output=True)
    return str(json.loads(told.stdout)["config"]["digest"]).removeprefix("sha256:")


def _bring(layout: Layout, image: str, wanted: str) -> None:
    # By its id: another build may give the name to another image meanwhile.
    sender_command = ["buildah", "push", "--quiet", wanted, f"docker-archive:/dev/stdout:{image}"]
    with subprocess.Popen(sender_command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as sender:
        taken = subprocess.run(
            _ctr(layout, "images", "import", "-"), check=False, stdin=sender.stdout, capture_output=True, text=True
        )
        _, told = sender.communicate()
    if sender.returncode or taken.returncode:
        raise _failed(image, f"{told.decode(errors='replace')}{taken.stderr}".strip())


def _layers(wanted: str) -> dict[str, int]:
    """Return the layers of an image in buildah's storage: the digest and the size of each, uncompressed."""
    asked = ["buildah", "inspect", "--type=image", "--format={{.Manifest}}", wanted]
    manifest = json.loads(subprocess.run(asked, check=True, capture_output=True, text=True).stdout)
    return {str(layer["digest"]): int(layer["size"]) for layer in manifest["layers"]}


def _content(layout: Layout) -> set[str]:
    """Return the digests of what the cluster keeps."""
    listed = subprocess.run(_ctr(layout, "content", "ls", "--quiet"), check=True, capture_output=True, text=True)
    return set(listed.stdout.split())


def _bring_missing(layout: Layout, image: str, wanted: str, there: Mapping[str, int]) -> None:
    """Bring an image without the layers that are `there`.

    They stand in the image layout (https://github.com/opencontainers/image-spec/blob/v1.1.0/image-layout.md) as empty
    files of the right size, for buildah writes no blob that it finds, and are left out of what containerd is given,
    which looks for them among what it keeps.
    """
    layout.state.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="image-", dir=layout.state) as made:
        folder = Path(made)
        blobs = {layer: folder / "blobs" / layer.replace(":", "/") for layer in there}
        (folder / "blobs" / "sha256").mkdir(parents=True)
        for layer, path in blobs.items():
            path.touch()
            os.truncate(path, there[layer])
        _run(image, ["buildah", "push", "--quiet", "--disable-compression", wanted, f"oci:{folder}:{image}"])
        for path in blobs.values():
            path.unlink()
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        index["manifests"][0]["annotations"] = {"io.containerd.image.name": image}
        (folder / "index.json").write_text(json.dumps(index), encoding="utf-8")
        archive = folder / "archive.tar"
        with tarfile.open(archive, "w") as tar:
            for name in ("oci-layout", "index.json", "blobs"):
                tar.add(folder / name, arcname=name)
        _run(image, _ctr(layout, "images", "import", str(archive)))


def _run(image: str, command: Sequence[str]) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise _failed(image, done.stderr.strip())


def _ctr(layout: Layout, *arguments: str) -> Sequence[str]:
    return ("ctr", f"--address={layout.containerd_socket}", "--namespace=k8s.io", *arguments)


def _failed(image: str, why: str) -> StageError:
    return StageError(
        ExitCode.INTERNAL,
        f"bringing `{image}` into the test cluster failed: {why}",
        reason="ImageNotLoaded",
        hint="Look at the free disk space; `buildah images` lists what was built.",
    )


def main() -> int:
    """Load the images that the arguments name."""
    parser = argparse.ArgumentParser(description="Put images from buildah's storage into the test cluster.")
    parser.add_argument(
        "--name", default=Layout.name, metavar="CLUSTER", help="which test cluster (default: %(default)s)"
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="name and tag, as buildah knows it")
    arguments = parser.parse_args()
    layout = Layout(arguments.name)
    if not is_up(layout):
        raise StageError(
            ExitCode.MISSING_INPUT, "the test cluster is not up", reason="ClusterDown", hint="Run `make cluster`."
        )
    for image in arguments.images:
        if not load(layout, image):
            tell(f"{image}: there already")
    return 0


if __name__ == "__main__":
    run_main(main)
