"""What Ollama accepts as a model's name, and the names that a job's quantizations get. Pure; standard library only.

A name is ``[[host/]namespace/]model[:tag]``. The rules are those of Ollama's ``types/model/name.go`` (0.34), narrowed
where the server stores a name that its chat endpoint then reads as something else: a tag ``cloud`` or ``local`` or
one that ends in ``-cloud`` says *where* a model runs.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

DEFAULT_TAG = "latest"
CHECK_PREFIX = "tunesmith-check-"
"""Begins the names under which a model is proven before it goes live. No model of a user's may be called so."""

_LONGEST = 80
"""Characters that the model's part of a name may have."""
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}")
_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")
_MODEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")
_RESERVED_TAGS = re.compile(r"cloud|local|.*-cloud", re.IGNORECASE)


@dataclass(frozen=True)
class ModelName:
    """A model's name in its parts; a part that was not given is empty."""

    host: str
    namespace: str
    model: str
    tag: str

    def __str__(self) -> str:
        """Return the name as it was written."""
        path = "/".join(part for part in (self.host, self.namespace, self.model) if part)
        return f"{path}:{self.tag}" if self.tag else path

    def with_tag(self, tag: str) -> ModelName:
        """Return the same name with another tag."""
        return ModelName(self.host, self.namespace, self.model, tag)


def parse(text: str) -> ModelName:
    """Cut a name into its parts, as the server does; whether they are allowed is asked with :func:`problem`."""
    path, tag = text, ""
    if text.rfind(":") > text.rfind("/"):
        path, _, tag = text.rpartition(":")
    rest, _, model = path.rpartition("/")
    host, _, namespace = rest.rpartition("/")
    return ModelName(host, namespace, model, tag)


def problem(text: str) -> str | None:
    """Return why `text` cannot be a model's name and what is allowed, or None if it can."""
    if text != text.strip() or not text:
        return f"a model's name must not be empty, nor begin or end with blanks, got {text!r}"
    if "://" in text:
        return f"a model's name must be without `http://` or `https://`, got {text!r}"
    name = parse(text)
    checks = (
        (name.model, _MODEL, "the model's part", "80 letters, digits, '_', '-' or '.'", True),
        (name.tag, _MODEL, "the tag", "80 letters, digits, '_', '-' or '.'", text.endswith(":")),
        (name.namespace, _NAMESPACE, "the namespace", "80 letters, digits, '_' or '-'", "/" in text),
        (name.host, _HOST, "the registry's host", "350 letters, digits, '_', '-', '.' or ':'", text.startswith("/")),
    )
    for part, pattern, what, allowed, needed in checks:
        if (part or needed) and not pattern.fullmatch(part):
            return (
                f"{what} of the name must be 1 to {allowed}, and begin with a letter, a digit or '_'; "
                f"got {part!r} ({len(part)} characters) in {text!r}"
            )
    if _RESERVED_TAGS.fullmatch(name.tag):
        return (
            f"the tag must not be 'cloud' or 'local' nor end in '-cloud' (Ollama reads that as a place), got {text!r}"
        )
    if name.model.startswith(CHECK_PREFIX):
        return f"names that begin with {CHECK_PREFIX!r} are kept for models that are still being proven, got {text!r}"
    return None


def live_names(model: str, quantizations: Sequence[str]) -> dict[str, str]:
    """Return the name of each quantization: the first has the model's own, the others a tag that tells them apart.

    ``support-bot:v1`` with Q4_K_M and Q8_0 gives ``support-bot:v1`` and ``support-bot:v1-q8_0``. Without a tag, or
    with ``latest``, which is the same to Ollama, it gives ``support-bot:latest`` and ``support-bot:q8_0``.
    """
    name = parse(model)
    own = name.tag or DEFAULT_TAG
    names = {}
    for index, quantization in enumerate(quantizations):
        suffix = quantization.lower()
        further = suffix if own.lower() == DEFAULT_TAG else f"{own}-{suffix}"
        names[quantization] = str(name.with_tag(own if index == 0 else further))
    return names


def problem_of_any(model: str, quantizations: Sequence[str]) -> str | None:
    """Return why `model`, or a name that one of the quantizations would get, is not allowed; None if all are."""
    if (trouble := problem(model)) is not None:
        return trouble
    for quantization, name in live_names(model, quantizations).items():
        if (trouble := problem(name)) is not None:
            return f"the name for {quantization}: {trouble}"
    return None


def canonical(text: str) -> str:
    """Return the one form of a name by which the server tells models apart: lower case, whole, defaults left out."""
    name = parse(text.lower())
    host = "" if name.host == "registry.ollama.ai" else name.host
    namespace = "" if not host and name.namespace == "library" else name.namespace
    return str(ModelName(host, namespace, name.model, name.tag or DEFAULT_TAG))


def still_there(registered: Mapping[str, Mapping[str, Any]], models: Mapping[str, Mapping[str, Any]]) -> bool:
    """Say whether a server has every model as it was registered.

    Args:
        registered: by name, with its manifest's ``digest``: what `register` left in its result.
        models: what the server has (``/api/tags``), in the same form.
    """
    there = {canonical(name): model["digest"] for name, model in models.items()}
    return all(there.get(canonical(name)) == model["digest"] for name, model in registered.items())


def check_prefix(key: str, volume: str) -> str:
    """Return how the throw-away names of every attempt at a unit of work begin.

    Args:
        key: of the unit.
        volume: identity of the volume (:meth:`tunesmith_stages.volume.Volume.identity`): the same work may be done on
            two volumes with one server, and one must not remove what the other is about to prove.
    """
    return f"{CHECK_PREFIX}{key[:12]}-{volume[:8]}-"


def check_name(key: str, volume: str, attempt: str, quantization: str) -> str:
    """Return the throw-away name under which an attempt proves a quantization; always one that the server takes.

    Of a long name of an attempt the end is kept, which tells attempts apart, behind a digest of the whole.
    """
    prefix = check_prefix(key, volume)
    readable = re.sub(r"[^A-Za-z0-9_-]", "-", attempt)
    room = _LONGEST - len(prefix)
    if len(readable) > room:
        digest = hashlib.sha256(attempt.encode()).hexdigest()[:8]
        readable = f"{digest}-{readable[len(digest) + 1 - room :]}"
    return f"{prefix}{readable}:{quantization.lower()}"
