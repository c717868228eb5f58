"""What an image is made of, read from its Dockerfile: the files that it copies, and one digest over all of them."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template


def copied(dockerfile: Path, context: Path, arguments: Mapping[str, str]) -> list[Path]:
    """Return the files that a build with these arguments copies out of its context, sorted.

    Raises:
        FileNotFoundError: the Dockerfile copies something that is not there.
    """
    text = dockerfile.read_text(encoding="utf-8").replace("\\\n", " ")
    known = {**dict(re.findall(r"^ARG (\w+)=(\S*)$", text, re.MULTILINE)), **arguments}
    files: set[Path] = set()
    for line in re.findall(r"^(?:ADD|COPY) (.*)$", text, re.MULTILINE):
        words = shlex.split(Template(line).safe_substitute(known))
        if any(word.startswith("--from=") for word in words):
            continue
        for source in [word for word in words if not word.startswith("--")][:-1]:
            files |= _named(context, source)
    return sorted(files)


def _named(context: Path, source: str) -> set[Path]:
    """Return the files that a source of a COPY names: a file, all files of a folder, or those that a pattern fits."""
    found = list(context.glob(source))
    if not found:
        raise FileNotFoundError(f"{source} is not in {context}")
    below = {path for place in found for path in (place.rglob("*") if place.is_dir() else [place])}
    return {path for path in below if path.is_file() and "__pycache__" not in path.parts}


def inputs_digest(dockerfile: Path, context: Path, arguments: Mapping[str, str], parents: Sequence[str]) -> str:
    """Return a digest that changes with whatever an image is made of.

    That is: the Dockerfile, the arguments, the images that it starts from (`parents`, by id), and of each file that is
    copied its name, whether it is executable, and its bytes.
    """
    whole = hashlib.sha256()
    whole.update(json.dumps([dict(arguments), list(parents)], sort_keys=True).encode())
    whole.update(dockerfile.read_bytes())
    for path in copied(dockerfile, context, arguments):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        whole.update(f"{path.relative_to(context)} {path.stat().st_mode & 0o100:o} {content}\n".encode())
    return whole.hexdigest()
