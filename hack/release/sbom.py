"""Writes what is in a release, as CycloneDX: a list for each of the two images, and one for the chart.

    python hack/release/sbom.py [--into FOLDER] [--debian IMAGE=ROOT ...]

What is listed is what the images hold: they are read where buildah has them (root), or below ROOT. Python's packages
get the hashes of the locked requirements, as CycloneDX's own tool reads them; Debian's come from dpkg's database. What
is written is checked against CycloneDX's schema.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "hack" / "toolchain"))

from cyclonedx import CYCLONEDX  # noqa: E402 - a script, not a package that is installed
from making import run_main, tell  # noqa: E402

from tunesmith import __version__  # noqa: E402
from tunesmith_stages.contract import ExitCode  # noqa: E402
from tunesmith_stages.program import StageError  # noqa: E402

IMAGES = {"operator": "localhost/tunesmith-operator:dev", "stages": "localhost/tunesmith-stages:dev"}
_SPEC = "1.6"
_INSTALLED = "opt/tunesmith/venv/lib/python3*/site-packages/*.dist-info"
_VALIDATE = """
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
trouble = JsonStrictValidator(SchemaVersion.V1_6).validate_str(sys.stdin.read())
sys.exit(str(trouble) if trouble else 0)
"""
Component = dict[str, Any]


def python_packages(root: Path, locked: list[Component]) -> list[Component]:
    """Return the packages that are installed below a root, with their hashes where they are as locked.

    Raises:
        StageError: there are none: these are not the files of an image of ours.
    """
    known = {(_normal(item["name"]), item["version"]): item for item in locked}
    found = []
    for folder in root.glob(_INSTALLED):
        name, _, version = folder.name.removesuffix(".dist-info").partition("-")
        purl = f"pkg:pypi/{_normal(name)}@{version}"
        plain = {"type": "library", "name": _normal(name), "version": version, "purl": purl, "bom-ref": purl}
        found.append(known.get((_normal(name), version), plain))
    if not found:
        hint = "Build the images first: make images."
        told = f"{root / _INSTALLED} is not there: it must be the root of an image of Tunesmith"
        raise StageError(ExitCode.MISSING_INPUT, told, reason="NoPythonPackages", hint=hint)
    return found


def _normal(name: str) -> str:
    """Return a package's name in the one form that PEP 503 gives it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def locked_packages(requirements: Path) -> list[Component]:
    """Return the locked packages, each with its hashes."""
    tool: list[str | Path] = [CYCLONEDX.ensure(), "-m", "cyclonedx_py", "requirements", requirements]
    asked: list[str | Path] = [*tool, "--output-format=JSON", f"--spec-version={_SPEC}", "--no-validate"]
    told = json.loads(_run(asked, f"listing {requirements.name}"))
    return [_short(component) for component in told["components"]]


def _short(component: Component) -> Component:
    """Leave out the line of the file, and the address of an index that nobody need use: name and hashes remain."""
    hashes = [each for place in component.get("externalReferences", ()) for each in place.get("hashes", ())]
    kept = {name: component[name] for name in ("type", "name", "version", "purl")}
    files = (
        {"externalReferences": [{"type": "distribution", "url": component["purl"], "hashes": hashes}]} if hashes else {}
    )
    return {**kept, **files, "bom-ref": component["purl"]}


def debian_packages(root: Path) -> list[Component]:
    """Return the packages that dpkg has installed below a root.

    Raises:
        StageError: there is no such database.
    """
    status = root / "var" / "lib" / "dpkg" / "status"
    if not status.is_file():
        raise StageError(
            ExitCode.MISSING_INPUT,
            f"{status} is not there: it must be the root of a Debian image",
            reason="NoDebianPackages",
            hint="Build the images first: make images.",
        )
    found = []
    for paragraph in status.read_text(encoding="utf-8").split("\n\n"):
        field = dict(re.findall(r"^([A-Z][\w-]*): (.*)$", paragraph, re.MULTILINE))
        if field.get("Status", "").endswith(" installed"):
            version = field["Version"].replace("+", "%2B").replace(":", "%3A")
            purl = f"pkg:deb/debian/{field['Package'].replace('+', '%2B')}@{version}?arch={field['Architecture']}"
            named = {"type": "library", "name": field["Package"], "version": field["Version"]}
            found.append({**named, "purl": purl, "bom-ref": purl})
    return found


def llama_cpp() -> Component:
    """Return llama.cpp, as the source of the pinned Python package has it."""
    pinned = (ROOT / "hack" / "toolchain" / "llama_cpp.txt").read_text(encoding="utf-8")
    found = re.search(r"^(llama-cpp-python)==(\S+) --hash=sha256:(\w{64})", pinned, re.MULTILINE)
    assert found is not None  # noqa: S101 - it is the one that the file is for
    purl = f"pkg:pypi/{found[1]}@{found[2]}"
    source = {"type": "distribution", "url": purl, "hashes": [{"alg": "SHA-256", "content": found[3]}]}
    named = {"type": "library", "name": "llama.cpp", "version": f"as in {found[1]} {found[2]}", "purl": purl}
    return {**named, "bom-ref": "llama.cpp", "externalReferences": [source]}


def bill(name: str, kind: str, components: list[Component]) -> dict[str, Any]:
    """Return the list of what something is made of. The same parts give the same text."""
    ordered = sorted(components, key=lambda item: str(item["bom-ref"]))
    subject = {"type": kind, "name": name, "version": __version__, "bom-ref": name}
    depends = [{"ref": name, "dependsOn": [item["bom-ref"] for item in ordered]}]
    head = {"bomFormat": "CycloneDX", "specVersion": _SPEC, "version": 1}
    return {**head, "metadata": {"component": subject}, "components": ordered, "dependencies": depends}


def bills(roots: dict[str, Path]) -> dict[str, dict[str, Any]]:
    """Return every list by its name, from the root file systems of the images."""
    found = {}
    for image, root in roots.items():
        locked = locked_packages(ROOT / "requirements" / f"{image}.txt")
        components = [*python_packages(root, locked), *debian_packages(root)]
        if image == "stages":
            components.append(llama_cpp())
        found[f"tunesmith-{image}"] = bill(f"tunesmith-{image}", "container", components)
    used = [
        {"type": "container", "name": f"tunesmith-{image}", "version": __version__, "bom-ref": image} for image in roots
    ]
    return {**found, "tunesmith-chart": bill("tunesmith-chart", "application", used)}


def write(found: dict[str, dict[str, Any]], folder: Path) -> list[Path]:
    """Check each list against CycloneDX's schema, and write it.

    Raises:
        StageError: one does not fit the schema.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, content in found.items():
        text = json.dumps(content, indent=1) + "\n"
        _run([CYCLONEDX.ensure(), "-c", _VALIDATE], f"checking {name}", text)
        path = folder / f"{name}.cdx.json"
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return written


@contextmanager
def mounted(image: str) -> Iterator[Path]:
    """Have the files of an image of buildah's store below a folder for as long as the block lasts."""
    container = _run(["buildah", "from", "--pull-never", image], f"opening {image}").strip()
    try:
        yield Path(_run(["buildah", "mount", container], f"opening {image}").strip())
    finally:
        _run(["buildah", "rm", container], f"closing {image}")


def _run(command: list[str | Path], what: str, given: str | None = None) -> str:
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, input=given)
    except FileNotFoundError:
        raise _failed(what, f"there is no `{command[0]}` on PATH") from None
    if done.returncode:
        raise _failed(what, done.stderr.strip()[-1000:])
    return done.stdout


def _failed(what: str, why: str) -> StageError:
    hint = "Build the images first (make images), as root; or give their files: --debian IMAGE=ROOT."
    return StageError(ExitCode.MISSING_INPUT, f"{what} failed: {why}", reason="SbomFailed", hint=hint)


def main() -> int:
    """Write the lists and print where they are."""
    parser = argparse.ArgumentParser(description="Write what is in a release, as CycloneDX.")
    parser.add_argument("--into", type=Path, default=ROOT / "dist" / "release", help="default: dist/release")
    parser.add_argument(
        "--debian", action="append", default=[], metavar="IMAGE=ROOT", help="files of operator or stages"
    )
    arguments = parser.parse_args()
    roots = {name: Path(root) for name, _, root in (given.partition("=") for given in arguments.debian)}
    if unknown := sorted(roots.keys() - IMAGES.keys()):
        parser.error(f"there is no image {unknown[0]}; it must be one of: {', '.join(IMAGES)}")
    if roots.keys() == IMAGES.keys():
        found = bills({name: roots[name] for name in IMAGES})
    else:
        with mounted(IMAGES["operator"]) as operator, mounted(IMAGES["stages"]) as stages:
            found = bills({"operator": operator, "stages": stages} | roots)
    for path in write(found, arguments.into):
        tell(f"{path.name}: {len(json.loads(path.read_text(encoding='utf-8'))['components'])} parts")
        print(path)
    return 0


if __name__ == "__main__":
    run_main(main)
