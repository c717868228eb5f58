"""What the plugin says when the API server refuses or is away."""

from __future__ import annotations

import pytest

from tunesmith.cli.kubectl.errors import in_words, is_passing
from tunesmith.kube.cluster import ApiError

WORDS = {
    "no answer": (
        ApiError(0, "ClientConnectorError", "Connection refused"),
        "The cluster at https://here does not answer: Connection refused.",
        "kubectl config get-contexts",
    ),
    "no answer and no words": (ApiError(0, "TimeoutError", ""), "does not answer: TimeoutError.", "Is it up"),
    "not known": (ApiError(401, "Unauthorized", "Unauthorized"), "does not know you: Unauthorized.", "Log in again"),
    "not allowed": (
        ApiError(403, "Forbidden", 'User "jo" cannot get resource'),
        'You may not do this in namespace team-a: User "jo" cannot get resource.',
        "Ask for these rights",
    ),
    "anything else": (ApiError(422, "Invalid", "too long"), "The API server refuses: 422 Invalid: too long.", "See"),
}


@pytest.mark.parametrize(("error", "what", "hint"), WORDS.values(), ids=WORDS)
def test_in_words(error: ApiError, what: str, hint: str) -> None:
    """Whatever ends the plugin is told as what happened, where, and what to do next."""
    said = in_words(error, "https://here", "team-a")
    assert what in said.what
    assert hint in said.hint


@pytest.mark.parametrize(
    ("status", "passing"),
    [(0, True), (429, True), (500, True), (503, True), (401, False), (403, False), (404, False), (410, False)],
)
def test_passing(status: int, passing: bool) -> None:
    """Only what may go well in a moment is asked again."""
    assert is_passing(ApiError(status, "", "")) is passing
