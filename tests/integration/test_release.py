"""What a release says of itself: lists of contents that fit CycloneDX, and a signature that means something."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.generator import ROOT
from tunesmith_stages.program import StageError

sys.path.append(str(ROOT / "hack" / "release"))  # scripts, not a package that is installed

import sbom
import sign

IMAGE = f"registry.example.com/ml/tunesmith-operator@sha256:{'0a' * 32}"
DPKG = """Package: libstdc++6
Status: install ok installed
Architecture: amd64
Version: 12.2.0-14+deb12u1
Description: a library
 of several lines

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1

Package: passwd
Status: install ok installed
Architecture: amd64
Version: 1:4.13+dfsg1-1
"""


def _locked(name: str) -> str:
    """Return a package of the operator's locked requirements as its folder is called, with its version."""
    text = (ROOT / "requirements" / "operator.txt").read_text(encoding="utf-8")
    found = re.search(rf"^{name}==([^ ;]+)", text, re.MULTILINE)
    assert found
    return f"{name.replace('-', '_')}-{found[1]}"


LOCKED = [_locked(name) for name in ("pydantic", "prometheus-client")]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return the files of an image that has two packages of Debian, two that are locked, and one that is not."""
    status = tmp_path / "root" / "var" / "lib" / "dpkg" / "status"
    status.parent.mkdir(parents=True)
    status.write_text(DPKG, encoding="utf-8")
    packages = tmp_path / "root" / "opt" / "tunesmith" / "venv" / "lib" / "python3.11" / "site-packages"
    for package in (*LOCKED, "Of.Ours-1.0"):
        (packages / f"{package}.dist-info").mkdir(parents=True)
    return tmp_path / "root"


def test_lists_of_contents(root: Path, tmp_path: Path) -> None:
    """What an image holds is listed, with the hashes of the lock: Python's packages, Debian's, and llama.cpp."""
    found = sbom.bills({"operator": root, "stages": root})
    written = sbom.write(found, tmp_path / "release")
    assert [path.name for path in written] == [
        "tunesmith-operator.cdx.json",
        "tunesmith-stages.cdx.json",
        "tunesmith-chart.cdx.json",
    ]
    operator, stages, chart = (json.loads(path.read_text(encoding="utf-8")) for path in written)
    parts = {item["name"]: item for item in operator["components"]}
    assert parts.keys() == {"pydantic", "prometheus-client", "of-ours", "libstdc++6", "passwd"}
    assert parts["of-ours"]["purl"] == "pkg:pypi/of-ours@1.0"
    (files,) = parts["pydantic"]["externalReferences"]
    locked = (ROOT / "requirements" / "operator.txt").read_text(encoding="utf-8")
    hashes = re.findall(r"--hash=sha256:(\w+)", locked.partition("\npydantic==")[2].partition("\npydantic-core==")[0])
    assert hashes
    assert {each["content"] for each in files["hashes"]} == set(hashes)
    assert "://" not in json.dumps(files), "whoever installs uses their own index"
    assert parts["libstdc++6"]["purl"] == "pkg:deb/debian/libstdc%2B%2B6@12.2.0-14%2Bdeb12u1?arch=amd64"
    assert parts["passwd"]["purl"] == "pkg:deb/debian/passwd@1%3A4.13%2Bdfsg1-1?arch=amd64"
    assert {item["name"] for item in stages["components"]} == parts.keys() | {"llama.cpp"}
    assert [item["name"] for item in chart["components"]] == ["tunesmith-operator", "tunesmith-stages"]


def test_a_list_that_does_not_fit_is_not_written(tmp_path: Path) -> None:
    """What is no CycloneDX is refused, so that the check of those that are written means something."""
    with pytest.raises(StageError, match="checking wrong failed"):
        sbom.write({"wrong": sbom.bill("wrong", "no such kind", [])}, tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_image_that_is_none(tmp_path: Path) -> None:
    """Files without a database of Debian's, or without our packages, are told of."""
    with pytest.raises(StageError, match="must be the root of a Debian image"):
        sbom.debian_packages(tmp_path)
    with pytest.raises(StageError, match="must be the root of an image of Tunesmith"):
        sbom.python_packages(tmp_path, [])


# --- signatures ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Yield the fingerprints of two throw-away keys, in a GnuPG of their own."""
    home = tmp_path_factory.mktemp("g")
    home.chmod(0o700)
    environ = {**os.environ, "GNUPGHOME": str(home)}
    before, os.environ["GNUPGHOME"] = os.environ.get("GNUPGHOME"), str(home)
    try:
        for name in ("ours", "theirs"):
            made = ["gpg", "--batch", "--passphrase", "", "--quick-generate-key", name, "ed25519", "sign", "never"]
            subprocess.run(made, check=True, capture_output=True, env=environ)
        listing = ["gpg", "--batch", "--with-colons", "--list-secret-keys"]
        listed = subprocess.run(listing, check=True, capture_output=True, text=True, env=environ).stdout
        first, second = re.findall(r"^fpr:+(\w+):", listed, re.MULTILINE)
        yield first, second
    finally:
        subprocess.run(["gpgconf", "--kill", "gpg-agent"], check=False, env=environ)
        if before is None:
            del os.environ["GNUPGHOME"]
        else:
            os.environ["GNUPGHOME"] = before


@pytest.fixture
def release(tmp_path: Path, keys: tuple[str, str]) -> Path:
    """Return a release that was signed with the first key."""
    (tmp_path / "tunesmith-operator.cdx.json").write_text("{}", encoding="utf-8")
    sign.sign(tmp_path, [IMAGE], keys[0])
    return tmp_path


def test_what_was_signed_is_good(release: Path, keys: tuple[str, str]) -> None:
    """A release as it was signed is good, by our program and by hand, and tells whose key it was."""
    assert sign.verify(release) == keys[0]
    assert sign.verify(release, keys[0]) == keys[0]
    by_hand = "gpg --verify SHA256SUMS.asc SHA256SUMS && sha256sum --check --strict SHA256SUMS"
    subprocess.run(["sh", "-c", by_hand], check=True, capture_output=True, cwd=release)
    assert (release / "images.txt").read_text(encoding="utf-8") == f"{IMAGE}\n"


def _other_image(release: Path) -> None:
    (release / "images.txt").write_text(IMAGE.replace("0a", "0b") + "\n", encoding="utf-8")


def _other_sums(release: Path) -> None:
    _other_image(release)
    sums = "".join(f"{sign._hash(path)}  {path.name}\n" for path in sign._files(release))
    (release / "SHA256SUMS").write_text(sums, encoding="utf-8")


TAMPERED: dict[str, tuple[Callable[[Path], object], str]] = {
    "another image": (_other_image, "images.txt is not what was signed"),
    "another image, and its hash": (_other_sums, "has no good signature"),
    "a file more": (lambda release: (release / "more.json").write_text("{}"), "more.json is not what was signed"),
    "a file less": (lambda release: (release / "images.txt").unlink(), "images.txt is not what was signed"),
    "no signature": (lambda release: (release / "SHA256SUMS.asc").unlink(), "has no good signature"),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_what_was_not_signed_is_refused(release: Path, name: str) -> None:
    """Whatever differs from what was signed is told of, and it is said not to install it."""
    tamper, told = TAMPERED[name]
    tamper(release)
    with pytest.raises(StageError, match=re.escape(told)) as refused:
        sign.verify(release)
    assert refused.value.hint == "Do not install it."


def test_another_key_is_refused(release: Path, keys: tuple[str, str]) -> None:
    """A good signature of somebody else is none of ours."""
    with pytest.raises(StageError, match="was signed with the key"):
        sign.verify(release, keys[1])


@pytest.mark.parametrize("image", ["tunesmith-operator:1.0", "tunesmith@sha256:0a", f"{IMAGE} "])
def test_only_digests_are_signed(tmp_path: Path, keys: tuple[str, str], image: str) -> None:
    """A tag can be moved to another image, so none is signed."""
    with pytest.raises(StageError, match="must be NAME@sha256:DIGEST"):
        sign.sign(tmp_path, [image], keys[0])


def test_nothing_is_not_signed(tmp_path: Path, keys: tuple[str, str]) -> None:
    """An empty release is a mistake."""
    with pytest.raises(StageError, match="holds nothing to sign"):
        sign.sign(tmp_path, [], keys[0])


def test_a_key_that_is_not_there(tmp_path: Path, keys: tuple[str, str]) -> None:
    """Without the key nothing is written that looks like a signature."""
    assert keys
    with pytest.raises(StageError, match="cannot sign with nobody"):
        sign.sign(tmp_path, [IMAGE], "nobody")
    assert not (tmp_path / "SHA256SUMS.asc").exists()
