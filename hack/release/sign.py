"""Signs a release with a GnuPG key, and tells whether a release is the one that was signed.

    python hack/release/sign.py --key KEY IMAGE@sha256:... ...     signs what lies in dist/release, and these images
    python hack/release/sign.py --verify [--key FINGERPRINT]       tells whether it is what was signed, and by whom

``SHA256SUMS`` holds the hash of each file that lies there: the lists of contents, and ``images.txt``, the images by
digest. Nothing here packs the chart: it is signed only if somebody puts it there first. A digest is the hash of all of
an image, so who installs by digest (``image.*.digest``) runs the image that was signed, whoever serves it. Anybody can
check by hand: ``gpg --verify SHA256SUMS.asc SHA256SUMS && sha256sum --check --strict SHA256SUMS``.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "hack" / "toolchain"))

from debian_packages import ensure_packages  # noqa: E402 - scripts, not a package that is installed
from making import run_main, tell  # noqa: E402

from tunesmith_stages.contract import ExitCode  # noqa: E402
from tunesmith_stages.program import StageError  # noqa: E402

SUMS, SIGNATURE, IMAGES = "SHA256SUMS", "SHA256SUMS.asc", "images.txt"
_BY_DIGEST = re.compile(r"[^\s@]+@sha256:[0-9a-f]{64}")


def sign(folder: Path, images: Sequence[str], key: str) -> None:
    """Sign the files in a folder and images by their digests.

    Raises:
        StageError: an image is not named by digest, there is nothing to sign, or GnuPG cannot sign.
    """
    for image in images:
        if not _BY_DIGEST.fullmatch(image):
            raise _refused(
                f"{image} cannot be signed: it must be NAME@sha256:DIGEST, because a tag can be moved",
                "`buildah push --digestfile FILE` says the digest of what it has pushed.",
            )
    if images:
        (folder / IMAGES).write_text("".join(f"{image}\n" for image in sorted(images)), encoding="utf-8")
    files = _files(folder)
    if not files:
        raise _refused(f"{folder} holds nothing to sign", "Make it first: make sbom.")
    (folder / SUMS).write_text("".join(f"{_hash(path)}  {path.name}\n" for path in files), encoding="utf-8")
    signing: list[str | Path] = [
        "gpg",
        "--batch",
        "--yes",
        "--armor",
        "--local-user",
        key,
        "--output",
        folder / SIGNATURE,
    ]
    done = subprocess.run([*signing, "--detach-sign", folder / SUMS], check=False, capture_output=True, text=True)
    if done.returncode:
        raise _refused(
            f"GnuPG cannot sign with {key}: {done.stderr.strip()}", "`gpg --list-secret-keys` lists the keys."
        )


def verify(folder: Path, key: str = "") -> str:
    """Return the fingerprint of the key that signed what lies in a folder.

    Args:
        folder: the release.
        key: the fingerprint that it must be; empty for any key that GnuPG knows.

    Raises:
        StageError: there is no good signature, it is another's, or a file is not what was signed.
    """
    checking: list[str | Path] = ["gpg", "--batch", "--status-fd=1", "--verify", folder / SIGNATURE, folder / SUMS]
    done = subprocess.run(checking, check=False, capture_output=True, text=True)
    good = re.search(r"^\[GNUPG:\] VALIDSIG (?:\S+ ){9}(\w+)", done.stdout, re.MULTILINE)
    if done.returncode or not good:
        raise _differs(f"{SUMS} has no good signature: {done.stderr.strip()}")
    if key and good[1] != key.upper().replace(" ", ""):
        raise _differs(f"{SUMS} was signed with the key {good[1]}, not with {key}")
    lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    signed = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    found = {path.name: _hash(path) for path in _files(folder)}
    if wrong := sorted(name for name in signed.keys() | found.keys() if signed.get(name) != found.get(name)):
        raise _differs(f"{wrong[0]} is not what was signed")
    return good[1]


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.is_file() and path.name not in {SUMS, SIGNATURE})


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _refused(message: str, hint: str) -> StageError:
    return StageError(ExitCode.BAD_CONFIG, message, reason="CannotSign", hint=hint)


def _differs(message: str) -> StageError:
    return StageError(ExitCode.GATE_FAILED, message, reason="NotWhatWasSigned", hint="Do not install it.")


def main() -> int:
    """Sign or verify."""
    parser = argparse.ArgumentParser(description="Sign a release, or tell whether it is the one that was signed.")
    parser.add_argument("images", nargs="*", metavar="IMAGE@sha256:DIGEST")
    parser.add_argument("--folder", type=Path, default=ROOT / "dist" / "release", help="default: dist/release")
    parser.add_argument("--key", default="", help="name or fingerprint of the key; with --verify its fingerprint")
    parser.add_argument("--verify", action="store_true")
    arguments = parser.parse_args()
    ensure_packages("signing a release", ("gpg",), hint="Install GnuPG.")
    if arguments.verify:
        tell(f"{arguments.folder}: signed with {verify(arguments.folder, arguments.key)}")
    elif not arguments.key:
        parser.error("--key must name the key to sign with")
    else:
        sign(arguments.folder, arguments.images, arguments.key)
        tell(f"{arguments.folder / SIGNATURE}: written")
    return 0


if __name__ == "__main__":
    run_main(main)
