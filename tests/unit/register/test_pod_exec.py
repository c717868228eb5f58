from __future__ import annotations

import base64
import hashlib
import json
import struct
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.ollama import Ollama
from tunesmith_stages.ollama_pod import OllamaPod
from tunesmith_stages.pod_exec import Ended, Pod, ended, execute, refusal
from tunesmith_stages.program import StageError

POD = Pod("ai", "ollama-0", "ollama")
COMMAND = ["ollama", "create", "bot:v1", "-f", "/volume/a b/Modelfile"]


def status(**more: object) -> str:
    return json.dumps({"metadata": {}, **more})


NON_ZERO = {"reason": "NonZeroExitCode", "details": {"causes": [{"reason": "ExitCode", "message": "3"}]}}

ENDINGS: dict[str, tuple[str, Ended]] = {
    "well": (status(status="Success"), Ended(0, "said")),
    "with an exit code": (status(status="Failure", message="command terminated", **NON_ZERO), Ended(3, "said")),
    "it never began": (
        status(status="Failure", message="exec failed: executable file not found", reason="InternalError"),
        Ended(None, "said", "exec failed: executable file not found"),
    ),
    "the last words never came": ("", Ended(None, "said", "the connection ended before the program did")),
    "with an exit code that is missing": (
        status(status="Failure", reason="NonZeroExitCode", details={"causes": []}),
        Ended(None, "said", status(status="Failure", reason="NonZeroExitCode", details={"causes": []})),
    ),
    "with words that are no JSON": ("broken pipe", Ended(None, "said", "broken pipe")),
    "with a list": ("[]", Ended(None, "said", "[]")),
}


@pytest.mark.parametrize(("words", "expected"), ENDINGS.values(), ids=ENDINGS.keys())
def test_how_a_program_ended(words: str, expected: Ended) -> None:
    """Only a clear word of the API counts as an end; everything else is not known, and says what was heard."""
    assert ended(words, "said") == expected


REFUSALS: dict[str, tuple[int, str, ExitCode, str]] = {
    "by RBAC": (403, 'User "x" cannot get resource "pods/exec"', ExitCode.NO_PERMISSION, "ExecForbidden"),
    "by a policy": (403, "ValidatingAdmissionPolicy 'x' denied request", ExitCode.NO_PERMISSION, "ExecForbidden"),
    "by a policy without a reason": (422, "denied request", ExitCode.NO_PERMISSION, "ExecForbidden"),
    "the token is no good": (401, "Unauthorized", ExitCode.NO_PERMISSION, "ExecForbidden"),
    "no such pod": (404, 'pods "ollama-0" not found', ExitCode.UNAVAILABLE, "OllamaPodNotFound"),
    "no such container": (
        400,
        "container nobody is not valid for pod ollama-0",
        ExitCode.BAD_CONFIG,
        "OllamaContainerNotFound",
    ),
    "the pod is over": (
        400,
        "cannot exec into a container in a completed pod; current phase is Failed",
        ExitCode.UNAVAILABLE,
        "OllamaPodNotReady",
    ),
    "the kubelet does not know it yet": (500, "pod does not exist", ExitCode.UNAVAILABLE, "OllamaPodNotReady"),
    "the kubelet is away": (502, "error dialing backend", ExitCode.UNAVAILABLE, "OllamaPodNotReady"),
    "the API server is away": (0, "[Errno 111] Connection refused", ExitCode.UNAVAILABLE, "KubernetesUnreachable"),
}


@pytest.mark.parametrize(("code", "text", "exit_code", "reason"), REFUSALS.values(), ids=REFUSALS.keys())
def test_refusals_say_which_pod_and_why(code: int, text: str, exit_code: ExitCode, reason: str) -> None:
    """Each refusal has the class that says whether waiting helps, names pod and container, and keeps the words."""
    error = refusal(POD, code, text)
    assert (error.code, error.reason) == (exit_code, reason)
    assert "ai/ollama-0 (container ollama)" in error.message
    assert text in error.message


# --- on the wire -----------------------------------------------------------------------------------------------------


class ApiServer:
    """Speaks as an API server does when a program is run in a pod (RFC 6455, subprotocol v5.channel.k8s.io)."""

    def __init__(self) -> None:
        self.refuses: tuple[int, bytes] | None = None
        self.frames: list[bytes] = []
        self.closes = True
        self.asked: list[str] = []
        self.url = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.asked.append(handler.path)
        handler.close_connection = True
        if self.refuses is not None:
            handler.send_response(self.refuses[0])
            handler.send_header("Content-Length", str(len(self.refuses[1])))
            handler.end_headers()
            handler.wfile.write(self.refuses[1])
            return
        magic = handler.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        handler.send_response(101)
        handler.send_header("Upgrade", "websocket")
        handler.send_header("Connection", "Upgrade")
        accept = base64.b64encode(hashlib.sha1(magic.encode(), usedforsecurity=False).digest()).decode()
        handler.send_header("Sec-WebSocket-Accept", accept)
        handler.send_header("Sec-WebSocket-Protocol", "v5.channel.k8s.io")
        handler.end_headers()
        for payload in self.frames:
            handler.wfile.write(frame(0x82, payload))
        if self.closes:
            handler.wfile.write(frame(0x88, struct.pack(">H", 1000)))


def frame(head: int, payload: bytes) -> bytes:
    """Return a whole frame of up to 64 KiB."""
    size = struct.pack("B", len(payload)) if len(payload) < 126 else struct.pack(">BH", 126, len(payload))
    return bytes([head]) + size + payload


@pytest.fixture
def api_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    """An API server that KUBECONFIG leads to."""
    api = ApiServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            api.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    api.url = f"http://127.0.0.1:{server.server_port}"
    kubeconfig = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": api.url}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    (tmp_path / "kubeconfig").write_text(json.dumps(kubeconfig))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    yield api
    server.shutdown()
    server.server_close()


def channel(number: int, text: str) -> bytes:
    return bytes([number]) + text.encode()


def test_a_program_is_run_as_it_stands(api_server: ApiServer) -> None:
    """The command goes word by word, without terminal and input; what it writes and its exit code come back."""
    api_server.frames = [
        channel(2, "copying\r"),
        channel(1, "é" * 40),
        channel(2, "Error: no\n"),
        channel(3, status(status="Failure", **NON_ZERO)),
    ]
    heard: list[str] = []
    result = execute(POD, COMMAND, heard.append)
    assert result.code == 3
    assert sorted(result.output) == sorted("copying\r" + "é" * 40 + "Error: no\n")
    assert "".join(heard) == result.output
    asked = urlsplit(api_server.asked[0])
    assert asked.path == "/api/v1/namespaces/ai/pods/ollama-0/exec"
    query = parse_qs(asked.query)
    assert query["command"] == COMMAND
    assert query["container"] == ["ollama"]
    assert (query["stdin"], query["tty"]) == (["false"], ["false"])


LOST: dict[str, Callable[[ApiServer], None]] = {
    "in the middle": lambda api: setattr(api, "closes", False),
    "before the exit code": lambda _: None,
}


@pytest.mark.parametrize("how", LOST.values(), ids=LOST.keys())
def test_lost_connection_is_no_end(api_server: ApiServer, how: Callable[[ApiServer], None]) -> None:
    """A connection that ends before the exit code came says nothing about the program."""
    api_server.frames = [channel(2, "copying\r")]
    how(api_server)
    result = execute(POD, COMMAND, lambda _: None)
    assert result.code is None
    assert result.trouble


@pytest.mark.parametrize(
    ("answer", "reason", "words"),
    [
        ((403, status(message="you may not").encode()), "ExecForbidden", "you may not (HTTP 403)"),
        ((404, status(message="no such pod").encode()), "OllamaPodNotFound", "no such pod (HTTP 404)"),
        ((500, b"pod does not exist"), "OllamaPodNotReady", "pod does not exist (HTTP 500)"),
    ],
)
def test_refused_handshake_is_read(api_server: ApiServer, answer: tuple[int, bytes], reason: str, words: str) -> None:
    """The API server's own status and words are found in the answer to the handshake."""
    api_server.refuses = answer
    with pytest.raises(StageError) as caught:
        execute(POD, COMMAND, lambda _: None)
    assert caught.value.reason == reason
    assert words in caught.value.message


class _WithoutModels(BaseHTTPRequestHandler):
    """An Ollama server that has no model."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "14")
        self.end_headers()
        self.wfile.write(b'{"models": []}')

    def log_message(self, *_: object) -> None:
        pass


def test_a_pod_that_is_another_server(api_server: ApiServer) -> None:
    """What the pod says that it created, and the server at the address does not have, was created somewhere else."""
    api_server.frames = [channel(2, "success\n"), channel(3, status(status="Success"))]
    ollama = ThreadingHTTPServer(("127.0.0.1", 0), _WithoutModels)
    threading.Thread(target=ollama.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    settings = {"namespace": "ai", "pod": "ollama-0", "container": "ollama", "volumeMountPath": "/volume"}
    with Ollama(f"http://127.0.0.1:{ollama.server_port}") as server, pytest.raises(StageError) as caught:
        OllamaPod(server, settings).create("bot:v1", "Modelfile")
    ollama.shutdown()
    ollama.server_close()
    assert (caught.value.code, caught.value.reason) == (ExitCode.BAD_CONFIG, "OllamaPodDiffers")
    assert "command=rm" in api_server.asked[-1], "it is not left there"


def test_api_server_that_is_away(api_server: ApiServer, tmp_path: Path) -> None:
    """Nobody at the address is a failure that may pass, with what the system said."""
    path = tmp_path / "kubeconfig"
    path.write_text(path.read_text().replace(api_server.url, "http://127.0.0.1:1"))
    with pytest.raises(StageError) as caught:
        execute(POD, COMMAND, lambda _: None)
    assert caught.value.reason == "KubernetesUnreachable"
    assert "refused" in caught.value.message


def test_without_access_to_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a token and without a kubeconfig, it is said what is missing."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nothing"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(StageError) as caught:
        execute(POD, COMMAND, lambda _: None)
    assert caught.value.reason == "NoClusterAccess"
