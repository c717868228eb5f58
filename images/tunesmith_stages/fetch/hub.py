"""What the hubs of models and datasets have in common: repositories, commits, files with hashes, and refusals.

A hub's module implements :class:`Hub` with that hub's own client. The files' bytes come by ``transfer``.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Protocol, TypeVar

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError

WAITS = (1.0, 2.0, 4.0, 8.0, 15.0)
"""Seconds before each further try at something that failed in a way that may pass. Whoever started the stage repeats it
too, with longer breaks."""
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_VERSION_DIGITS = 64
_TOKEN = re.compile(r"[\x21-\x7e]+")

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class HubFile:
    """One file of a repository at a commit."""

    path: str
    """Relative to the repository's top, with forward slashes; it leads nowhere else."""
    size: int
    """Bytes."""
    sha256: str = ""
    """Of its content, if the hub tells; else it tells `blob`, or nothing."""
    blob: str = ""
    """git's name of its content: the sha1 over ``blob <size>\\0`` and the content."""


class Hub(Protocol):
    """One repository of a hub.

    Raises (every method):
        StageError: the hub refuses, does not know the repository or revision, or does not answer.
    """

    called: str
    """The hub's name and the repository's, for messages."""
    way_in: str
    """What to set so that a token is sent."""

    def commit(self, revision: str) -> str:
        """Return the full hash of the commit that a branch, tag or commit leads to."""
        ...

    def files(self, commit: str) -> list[HubFile]:
        """Return every file of a commit."""
        ...

    def request(self, commit: str, path: str) -> tuple[str, Mapping[str, str]]:
        """Return the address of a file's content, and the headers to ask with."""
        ...


# --- versions --------------------------------------------------------------------------------------------------------


def is_commit(revision: str) -> bool:
    """Return whether a revision is the full hash of a commit, which needs no look-up."""
    return _COMMIT.fullmatch(revision) is not None


def version_of(commit: str) -> str:
    """Return a commit as the version of a source, which has 64 digits: filled up with zeros."""
    return commit.ljust(_VERSION_DIGITS, "0")


def pinned(version: str) -> str:
    """Return the commit that a version names; empty if it names none."""
    if not re.fullmatch(r"[0-9a-f]{64}", version):
        return ""
    return version[:40] if version.endswith("0" * (_VERSION_DIGITS - 40)) else version


# --- tokens ----------------------------------------------------------------------------------------------------------


def token_of(unit: str, runtime: Mapping[str, Any], default: str) -> str:
    """Return a unit's token, from the variable that the edge names or the `default` one; empty if there is none.

    Raises:
        StageError: the variable holds no token.
    """
    variable = runtime.get("tokens", {}).get(unit)
    token = os.environ.get(variable or default, "").strip()
    if (variable and not token) or (token and not _TOKEN.fullmatch(token)):
        raise StageError(
            ExitCode.BAD_CONFIG,
            f"the token of `{unit}` is empty" if not token else f"the token of `{unit}` holds blanks or other signs",
            reason="InvalidToken",
            hint="The Secret that `tokenSecretRef` names must hold the token alone.",
        )
    return token


# --- what can be wrong with an answer --------------------------------------------------------------------------------


def denied(hub: Hub, status: int, *, with_token: bool) -> StageError:
    """Return the failure of being refused access."""
    who = "with the token that was given" if with_token else "without a token"
    return StageError(
        ExitCode.NO_PERMISSION,
        f"{hub.called} refuses access {who} (HTTP {status}): the repository is gated or private, or does not exist",
        reason="HubAccessDenied",
        hint=f"On its page accept its licence, with the account that the token belongs to, and {hub.way_in}.",
    )


def no_repository(hub: Hub) -> StageError:
    """Return the failure of a repository that the hub does not know, or not for everybody."""
    return StageError(
        ExitCode.MISSING_INPUT,
        f"{hub.called} is not there, or is private",
        reason="RepositoryNotFound",
        hint=f"Correct the `repo`, which is written OWNER/NAME; if it is private, {hub.way_in}.",
    )


def no_revision(hub: Hub, revision: str) -> StageError:
    """Return the failure of a branch, tag or commit that is not in the repository."""
    return StageError(
        ExitCode.MISSING_INPUT,
        f"{hub.called} has no revision {revision!r}",
        reason="RevisionNotFound",
        hint="`revision` must be a branch, a tag or the full hash of a commit.",
    )


def not_pinned(hub: Hub, revision: str, known: str) -> StageError:
    """Return the failure of a hub that does not tell which commit a branch or tag leads to."""
    return StageError(
        ExitCode.BAD_CONFIG,
        f"{hub.called} does not tell the commit of the revision {revision!r} (it begins with {known!r})",
        reason="RevisionNotPinned",
        hint="Give the full hash of the commit as `revision`; the repository's page has it.",
    )


def unavailable(hub: Hub, why: str) -> StageError:
    """Return the failure of a hub that does not answer, or says that it cannot now."""
    return StageError(
        ExitCode.UNAVAILABLE,
        f"{hub.called} cannot be reached: {why}",
        reason="HubUnavailable",
        hint="It is tried again. What came already is kept. If it lasts: the way to the hub (the administrator's "
        "`network` settings, or HF_ENDPOINT, MODELSCOPE_ENDPOINT and HTTPS_PROXY here).",
    )


def not_understood(hub: Hub, why: str) -> StageError:
    """Return the failure of an answer that no such hub gives."""
    return StageError(
        ExitCode.BAD_CONFIG,
        f"{hub.called} gives an answer that is not understood: {why}",
        reason="HubAnswerUnknown",
        hint="The address of the hub (the administrator's `network` settings, or HF_ENDPOINT and MODELSCOPE_ENDPOINT "
        "here) must be that of the hub or of a mirror that speaks its protocol.",
    )


def patiently(ask: Callable[[], Answer], note: Callable[[str], None]) -> Answer:
    """Return the answer to a question that is asked again while the hub does not answer.

    Raises:
        StageError: it never did, or said no.
    """
    for wait in WAITS:
        try:
            return ask()
        except StageError as error:
            if error.code is not ExitCode.UNAVAILABLE:
                raise
            note(f"{error.message}; asking again in {wait:.0f} s")
            time.sleep(wait)
    return ask()


def require_safe_names(hub: Hub, files: Sequence[HubFile]) -> None:
    """Refuse a list of files in which one leads out of its folder, or could.

    Raises:
        StageError: one does.
    """
    for file in files:
        parts = PurePosixPath(file.path).parts
        unsafe = not parts or ".." in parts or file.path.startswith("/") or set(file.path) & {"\0", "\\"}
        if unsafe or "/".join(parts) != file.path:
            raise StageError(
                ExitCode.BAD_DATA,
                f"{hub.called} lists a file whose name leads elsewhere: {file.path!r}",
                reason="UnsafeFileName",
                hint="Do not use this repository: no honest client makes such names.",
            )
