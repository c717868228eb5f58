"""What can go wrong between the user and the cluster, in words."""

from __future__ import annotations

from tunesmith.kube.cluster import ApiError


class SaidError(Exception):
    """Something that the user is told, and what to do about it."""

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint


def in_words(error: ApiError, url: str, namespace: str) -> SaidError:
    """Return what an API server's refusal, or its silence, means to the user of `namespace`."""
    if error.status == 0:
        return SaidError(
            f"The cluster at {url} does not answer: {error.message or error.reason}.",
            "Is it up, and is this the context that you mean? `kubectl config get-contexts` lists them.",
        )
    if error.status == 401:
        return SaidError(
            f"The cluster at {url} does not know you: {error.message}.", "Log in again, or choose another context."
        )
    if error.status == 403:
        return SaidError(
            f"You may not do this in namespace {namespace}: {error.message}.", "Ask for these rights in the namespace."
        )
    return SaidError(f"The API server refuses: {error}.", "See what it says.")


def is_passing(error: ApiError) -> bool:
    """Tell whether the same may go well in a moment: the API server is away, or has too much to do."""
    return error.status in {0, 429} or error.status >= 500
