"""Builds the images for the test cluster with buildah: no Docker, no registry, nothing built twice.

    python hack/images/build.py [operator] [stages] [ollama]

They are the same Dockerfiles that anybody builds with Docker (images/README.md). What differs here: the base image is
made from this machine's own distribution, and llama.cpp and Ollama come from ``hack/toolchain``, which has built them
before. The images are in buildah's store afterwards; their names are printed. An image whose inputs are as they were
(a label holds their digest) is not touched, and keeps its id.
"""

from __future__ import annotations

import argparse
import json
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.append(str(ROOT / "hack" / "toolchain"))

import llama_cpp  # noqa: E402 - scripts, not a package that is installed
import ollama  # noqa: E402
from base_image import ensure_base  # noqa: E402
from debian_packages import ensure_packages  # noqa: E402
from dockerfile import inputs_digest  # noqa: E402
from making import run_main, tell  # noqa: E402
from tied import tied  # noqa: E402

from tunesmith import __version__  # noqa: E402
from tunesmith_stages.tools import run_tool, toolchain_folder  # noqa: E402

LABEL = "dev.tunesmith.inputs"
"""Holds the digest of what an image was made of."""


@dataclass(frozen=True)
class Image:
    """One image and what it is made of."""

    name: str
    dockerfile: Path
    context: Path
    arguments: dict[str, str] = field(default_factory=dict)
    stages: dict[str, str] = field(default_factory=dict)
    """Images that take the place of stages of the Dockerfile, by the stage's name."""


def images(names: Sequence[str]) -> list[str]:
    """Have images built and return their full names.

    Raises:
        StageError: a tool is missing, or a build failed; the message holds its last lines.
    """
    hint = "Install them, or build the images with Docker: images/README.md."
    ensure_packages("building the images", ("buildah", "debootstrap"), hint=hint)
    base = _build(_base())
    return [_build(IMAGES[name](base)) for name in names]


def _base() -> Image:
    folder = ensure_base(_cache())
    tag = folder.name.removeprefix("base-")
    return Image(f"localhost/tunesmith-base:{tag}", HERE / "base" / "Dockerfile", folder)


def _operator(base: str) -> Image:
    arguments = {"BASE_IMAGE": base, "VERSION": __version__}
    return Image("localhost/tunesmith-operator:dev", ROOT / "images" / "operator" / "Dockerfile", ROOT, arguments)


def _stages(base: str) -> Image:
    built = llama_cpp.ensure()
    dockerfile = HERE / "llama-cpp" / "Dockerfile"
    prebuilt = _build(Image(f"localhost/tunesmith-llama-cpp:{built.version}", dockerfile, built.folder))
    arguments, stages = {"BASE_IMAGE": base, "VERSION": __version__}, {"llama-cpp-built": prebuilt}
    return Image("localhost/tunesmith-stages:dev", ROOT / "images" / "stages" / "Dockerfile", ROOT, arguments, stages)


def _ollama(base: str) -> Image:
    version = ollama.pinned_versions()[0]
    folder = ollama.ensure(version).path.parents[1]
    return Image(f"localhost/tunesmith-ollama:{version}", HERE / "ollama" / "Dockerfile", folder, {"BASE_IMAGE": base})


IMAGES: dict[str, Callable[[str], Image]] = {"operator": _operator, "stages": _stages, "ollama": _ollama}


# --- with buildah ----------------------------------------------------------------------------------------------------


def _build(image: Image) -> str:
    """Build an image unless it is there, made of just this; return its name."""
    before, made_of = _find(image.name)
    parents = [found for found, _ in map(_find, [*image.arguments.values(), *image.stages.values()]) if found]
    wanted = inputs_digest(image.dockerfile, image.context, image.arguments, parents)
    if made_of == wanted:
        tell(f"{image.name}: unchanged")
        return image.name
    log = _cache() / f"{image.name.rpartition('/')[2].replace(':', '-')}.log"
    tell(f"{image.name}: building (log: {log})")
    begun = time.monotonic()
    log.write_bytes(b"")
    run_tool(tied(_command(image, wanted)), log, what=f"building {image.name}")
    if before and before != _find(image.name)[0]:
        # The layers that only the old image had go with it; it stays while a container uses it.
        subprocess.run(["buildah", "rmi", before], check=False, capture_output=True)
    tell(f"{image.name}: built in {time.monotonic() - begun:.0f} s")
    return image.name


def _command(image: Image, made_of: str) -> list[str | Path]:
    command: list[str | Path] = ["buildah", "bud", "--layers", "--force-rm", "--pull-never"]
    command += ["--isolation=chroot", "--network=host"]
    command += ["--timestamp=0"]  # the same files give the same image, whenever it is built
    if certificates := ssl.get_default_verify_paths().cafile:
        command += [f"--secret=id=ca,src={Path(certificates).resolve()}"]
    command += [f"--build-arg={name}={value}" for name, value in image.arguments.items()]
    command += [f"--build-context={stage}=docker-image://{name}" for stage, name in image.stages.items()]
    command += [f"--label={LABEL}={made_of}", f"--tag={image.name}", f"--file={image.dockerfile}", image.context]
    return command


def _find(name: str) -> tuple[str, str]:
    """Return an image's id and what its label says it was made of; nothing for what is not there."""
    asked = ["buildah", "inspect", "--type=image", name]
    told = subprocess.run(asked, check=False, capture_output=True, text=True)
    if told.returncode != 0:
        return "", ""
    image = json.loads(told.stdout)
    return image["FromImageID"], (image["OCIv1"]["config"].get("Labels") or {}).get(LABEL, "")


def _cache() -> Path:
    folder = toolchain_folder().parent / "images"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def main() -> int:
    """Build the images in the arguments and print their names."""
    parser = argparse.ArgumentParser(description="Build the images for the test cluster with buildah.")
    parser.add_argument("images", nargs="*", metavar="IMAGE", help=f"any of {', '.join(IMAGES)} (default: all)")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.images) - set(IMAGES)):
        parser.error(f"there is no image {unknown[0]}; it must be one of: {', '.join(IMAGES)}")
    print("\n".join(images(arguments.images or list(IMAGES))))
    return 0


if __name__ == "__main__":
    run_main(main)
