"""A hub that says 401 to a client of others has refused access, whatever that client makes of it; nobody else has."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import httpx
import httpx2
import pytest
import requests
from huggingface_hub.utils._http import hf_raise_for_status
from kubernetes.client import ApiException
from modelscope_hub.errors import raise_for_status
from websocket import WebSocketBadStatusException

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.failures import StageError, classify

MODEL = "https://hub.example/api/models/o/n"
LOGIN = "https://hub.example/api/whoami-v2"
INVALID = {"X-Error-Message": "Invalid credentials in Authorization header"}


def by_requests(status: int = 401) -> requests.Response:
    answer = requests.Response()
    answer.status_code, answer.reason, answer.url = status, "Unauthorized" if status == 401 else "Not Found", MODEL
    answer.request = requests.Request("GET", MODEL).prepare()
    return answer


def by_httpx(status: int = 401) -> httpx.Response:
    return httpx.Response(status, request=httpx.Request("GET", MODEL))


def by_huggingface(url: str, headers: Mapping[str, str] | None = None) -> httpx2.Response:
    return httpx2.Response(401, headers=headers, request=httpx2.Request("GET", url))


def raised(call: Callable[[], object]) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - each client has a class of its own
        call()
    return caught.value


REFUSED: Mapping[str, Callable[[], object]] = {
    "requests": by_requests().raise_for_status,
    "httpx": by_httpx().raise_for_status,
    "huggingface_hub, a repository": lambda: hf_raise_for_status(by_huggingface(MODEL)),
    "huggingface_hub, an account": lambda: hf_raise_for_status(by_huggingface(LOGIN)),
    "huggingface_hub, a token": lambda: hf_raise_for_status(by_huggingface(MODEL, INVALID)),
    "modelscope_hub": lambda: raise_for_status(by_requests()),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    """It is the reason that our own clients give, and says what to do about the token."""
    failure = classify(raised(REFUSED[case]))
    assert (failure.code, failure.reason) == (ExitCode.NO_PERMISSION, "HubAccessDenied")
    assert "tokenSecretRef" in failure.hint


OTHERS: Mapping[str, Exception] = {
    "the Kubernetes API": ApiException(status=401, reason="Unauthorized"),
    "the Kubernetes API, by a websocket": WebSocketBadStatusException("Handshake status 401 Unauthorized", 401),
    "a hub that lacks it, requests": raised(by_requests(404).raise_for_status),
    "a hub that lacks it, httpx": raised(by_httpx(404).raise_for_status),
    "a row": ValueError("row 401: Client Error: Unauthorized use of a column"),
    "a step": RuntimeError("401 of 500 steps; Client error"),
    "a longer number": RuntimeError("1401 Client Error"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_said_by_others(case: str) -> None:
    """The number alone, or another server's words, mean nothing of a hub."""
    assert classify(OTHERS[case]).reason == "InternalError"


def test_a_reason_that_is_known_stays() -> None:
    """Ollama's refusal is its own, though its client says 401 too."""
    error = StageError(ExitCode.NO_PERMISSION, "the server refuses access", reason="OllamaForbidden")
    error.__cause__ = raised(by_httpx().raise_for_status)
    assert classify(error).reason == "OllamaForbidden"
