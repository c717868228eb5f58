"""Runs a program inside a pod through the Kubernetes API (`pods/exec`), and tells apart how that can end.

Facts that shape this module (Kubernetes 1.36, the client 37):

- A websocket needs the verbs ``get`` and ``create`` on ``pods/exec``. A refusal is the HTTP answer to its handshake;
  the client packs that into an ApiException of status 0, whose cause still holds status and body.
- The exit code comes on a channel of its own, last. Without it nobody knows how the program ended; it may even go on.
- Right after a restart of the kubelet the answer is ``pod does not exist`` for a moment; right after one of the API
  server it is 403.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError

_STALL_SECONDS = 120.0
"""A program that shows its progress is never silent for so long."""
_KEPT = 64 * 1024  # characters of output; the end of it tells how it went


@dataclass(frozen=True)
class Pod:
    """Where a program is run."""

    namespace: str
    name: str
    container: str

    def __str__(self) -> str:
        """Return what people call it."""
        return f"{self.namespace}/{self.name} (container {self.container})"


@dataclass(frozen=True)
class Ended:
    """How a program ended."""

    code: int | None
    """Its exit code, or None if that never came."""
    output: str
    """The end of what it wrote, stdout and stderr as they came."""
    trouble: str = ""
    """What the node said, if the program could not be run or its end is not known."""


def execute(pod: Pod, command: Sequence[str], on_output: Callable[[str], None]) -> Ended:
    """Run `command` in `pod`, without a terminal and without input; `on_output` is given what it writes.

    Raises:
        StageError: the API server or the node refused to run it (:func:`refusal`), or cannot be reached.
    """
    from websocket import WebSocketException

    output = ""
    with _connected(pod, command) as client:
        heard = time.monotonic()
        try:
            while client.is_open():
                client.update(timeout=_STALL_SECONDS)
                text = client.read_channel(1) + client.read_channel(2)
                if text:
                    heard = time.monotonic()
                    output = (output + text)[-_KEPT:]
                    on_output(text)
                elif client.is_open() and time.monotonic() - heard >= _STALL_SECONDS:
                    return Ended(None, output, f"nothing was heard of it for {_STALL_SECONDS:.0f} s")
        except (OSError, WebSocketException) as error:
            return Ended(None, output, f"the connection broke off ({type(error).__name__}: {error})")
        return ended(client.read_channel(3), output)


def ended(status: str, output: str) -> Ended:
    """Return how a program ended by the last words of the API: a ``Status`` object on the error channel.

    The forms are those of ``k8s.io/apimachinery/pkg/util/remotecommand``: ``Success``; ``Failure`` with the reason
    ``NonZeroExitCode`` and the code among its causes; ``Failure`` with a message if nothing could be run.
    """
    if not status:
        return Ended(None, output, "the connection ended before the program did")
    try:
        said = json.loads(status)
        if said["status"] == "Success":
            return Ended(0, output)
        if said.get("reason") == "NonZeroExitCode":
            causes = said["details"]["causes"]
            return Ended(int(next(cause["message"] for cause in causes if cause["reason"] == "ExitCode")), output)
        return Ended(None, output, str(said["message"]))
    except (ValueError, KeyError, TypeError, StopIteration):
        return Ended(None, output, status)


@contextlib.contextmanager
def _connected(pod: Pod, command: Sequence[str]) -> Iterator[Any]:
    from kubernetes.client import ApiException, CoreV1Api
    from kubernetes.stream import stream

    api = CoreV1Api(_api_client())
    try:
        client = stream(
            api.connect_get_namespaced_pod_exec,
            pod.name,
            pod.namespace,
            container=pod.container,
            command=list(command),
            stdin=False,
            stdout=True,
            stderr=True,
            tty=False,
            _preload_content=False,
        )
    except ApiException as error:
        cause = error.__context__  # the websocket's own exception
        status = getattr(cause, "status_code", None) or error.status or 0
        raise refusal(pod, status, _words(getattr(cause, "resp_body", None)) or str(error.reason)) from error
    try:
        yield client
    finally:
        client.close()


def _api_client() -> Any:
    """Return a client with the pod's own account, or with the one of KUBECONFIG outside a cluster."""
    from kubernetes import client, config

    configuration = client.Configuration()
    try:
        try:
            config.load_incluster_config(configuration)  # type: ignore[no-untyped-call]
        except config.ConfigException:
            given = os.environ.get("KUBECONFIG")  # the client reads it only once, when it is imported
            config.load_kube_config(given, client_configuration=configuration)  # type: ignore[no-untyped-call]
    except config.ConfigException as error:
        raise StageError(
            ExitCode.BAD_CONFIG,
            f"`ollama.method` is Exec, but there is no access to a cluster: {error}",
            reason="NoClusterAccess",
            hint="Give the pod its service account's token, or set KUBECONFIG; or use the method API.",
        ) from error
    return client.ApiClient(configuration)


def _words(body: bytes | None) -> str:
    """Return what the API server said: the message of a ``Status`` object, or the text itself."""
    text = (body or b"").decode(errors="replace").strip()
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text[:500]


def refusal(pod: Pod, status: int, text: str) -> StageError:
    """Return the error for a program that could not be started.

    Args:
        pod: where it was to run.
        status: HTTP status of the API server's answer; 0 if there was none.
        text: its words.
    """
    where = "See `servers[].exec` in the administrator's settings."
    if status in (401, 403, 422):
        code, reason = ExitCode.NO_PERMISSION, "ExecForbidden"
        hint = f"The chart allows it for that pod and container alone, with `ollama create` and the like. {where}"
    elif status == 404:
        code, reason = ExitCode.UNAVAILABLE, "OllamaPodNotFound"
        hint = f"Start the Ollama pod, or correct its name. {where}"
    elif "is not valid for pod" in text:
        code, reason = ExitCode.BAD_CONFIG, "OllamaContainerNotFound"
        hint = f"Correct the container's name. {where}"
    elif status == 0:
        code, reason = ExitCode.UNAVAILABLE, "KubernetesUnreachable"
        hint = (
            "See whether the API server answers to pods; a proxy in the pod's environment must leave it out (NO_PROXY)."
        )
    else:
        code, reason = ExitCode.UNAVAILABLE, "OllamaPodNotReady"
        hint = "See the pod's state with `kubectl describe pod`."
    answer = f"HTTP {status}" if status else "no answer"
    return StageError(code, f"no program can be run in the pod {pod}: {text} ({answer})", reason=reason, hint=hint)
