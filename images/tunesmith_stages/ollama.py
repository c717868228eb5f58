"""Speaks with an Ollama server by its HTTP API, and turns whatever can go wrong there into a :class:`StageError`.

Facts about the protocol that shape this module (Ollama 0.34):

- ``/api/create`` streams JSON lines. An error can come as ``{"error": ...}`` in a stream that began with HTTP 200, and
  only the stream tells that a template was replaced, so every line is read.
- Everything else is asked with ``"stream": false``, where an error has an HTTP status of its own.
- The server refuses an upload whose digest is not the announced one, so a blob that it has is the right one.
- A model is loaded by the first question and may take minutes; ``keep_alive`` says how long it stays.

What goes to a server, models and prompts, never goes through a proxy: HTTP_PROXY and the like are not read. The address
of a server is one that the administrator or OLLAMA_HOST names; a proxy for the way out of a cluster must not see it.
"""

from __future__ import annotations

import json
import logging
import re
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import httpx

from tunesmith_stages import model_name
from tunesmith_stages.contract import ExitCode
from tunesmith_stages.ollama_refusal import RefusalError, meaning
from tunesmith_stages.program import StageError

Message = Mapping[str, str]
"""One turn of a conversation: ``role`` and ``content``."""

_CHUNK = 1024 * 1024
_CONNECT_SECONDS = 5.0
_STALL_SECONDS = 120.0
"""How long a server may neither take nor send a byte; an upload as a whole may take as long as it needs."""
_ANSWER_SECONDS = 900.0
"""How long an answer may take: loading a large model from a slow disk is part of it."""
_CLEANUP_SECONDS = 30.0
_LOADED_FOR = "60s"
"""How long a model stays loaded after a question of a proof, if its unloading should never be asked for."""
_CORRECT_ADDRESS = (
    "If its address is wrong, correct OLLAMA_HOST (`tunesmith run`) or `servers[].url` (the administrator's settings)."
)
_FILE_OF_MODEL = re.compile(r"^FROM .*sha256-([0-9a-f]{64})$", re.MULTILINE)


@dataclass(frozen=True)
class Reply:
    """What the model said to a conversation."""

    content: str
    done_reason: str
    """``stop``: it ended its turn. ``length``: it was cut off."""
    prompt_tokens: int


class Ollama:
    """One server.

    Args:
        url: where it answers, such as ``http://127.0.0.1:11434``.
        name: what the administrator calls it, for messages.
        ca_bundle: PEM text of the certificates to trust for ``https``, instead of those that the system trusts.

    Raises (every method):
        StageError: UNAVAILABLE if the server does not answer or breaks off; NO_PERMISSION, NO_SPACE, OUT_OF_MEMORY or
            BAD_CONFIG if that is what it complains of; :class:`RefusalError` with GATE_FAILED if it says no otherwise.
    """

    def __init__(self, url: str, *, name: str = "", ca_bundle: str = "") -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise StageError(
                ExitCode.BAD_CONFIG,
                f"the Ollama server's address must be like `http://host:11434`, got {url!r}",
                reason="InvalidOllamaAddress",
                hint=_CORRECT_ADDRESS,
            )
        self.url = url.rstrip("/")
        self.called = f"`{name}` at {self.url}" if name else f"at {self.url}"
        logging.getLogger("httpx").setLevel(logging.WARNING)  # it has a line for each request
        self._http = httpx.Client(
            base_url=self.url,
            timeout=httpx.Timeout(_STALL_SECONDS, connect=_CONNECT_SECONDS, read=_ANSWER_SECONDS),
            verify=_trusted(ca_bundle, self.called),
            trust_env=False,
        )

    def __enter__(self) -> Ollama:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    # --- asking --------------------------------------------------------------------------------------------------

    def version(self) -> str:
        """Return the server's version, such as ``0.34.4``."""
        answer = self._json("GET", "/api/version", what="its version", timeout=10.0)
        version = answer.get("version")
        if not isinstance(version, str):
            raise self._not_ollama(json.dumps(answer))
        return version

    def models(self) -> dict[str, Mapping[str, Any]]:
        """Return the models that the server has, by name: ``digest``, ``size`` (bytes), ``details``..."""
        models = self._json("GET", "/api/tags", what="its models").get("models")
        return {model["name"]: model for model in models or ()}

    def digest(self, name: str) -> str | None:
        """Return the manifest digest of a model, or None if the server does not have it."""
        wanted = model_name.canonical(name)
        found = (model["digest"] for there, model in self.models().items() if model_name.canonical(there) == wanted)
        return next(found, None)

    def show(self, name: str) -> Mapping[str, Any]:
        """Return what the server knows of a model: ``template``, ``capabilities``, ``model_info``..."""
        return self._json("POST", "/api/show", {"model": name}, what=f"what it knows of {name}")

    def file_of(self, name: str) -> str | None:
        """Return the sha256 of the file that holds a model's weights, or None if the server does not say."""
        found = _FILE_OF_MODEL.search(self.show(name).get("modelfile", ""))
        return found.group(1) if found else None

    def chat(
        self, name: str, messages: Sequence[Message], *, limit: int, think: bool | None = None, seed: int = 1
    ) -> Reply:
        """Let the model answer, always with its likeliest token, with at most `limit` tokens.

        Nothing of a prompt that is too long is cut: the server refuses it.
        """
        options = {"temperature": 0, "seed": seed, "num_predict": limit}
        answer = self._json("POST", "/api/chat", self._chat(name, messages, think, options=options), what="an answer")
        return Reply(
            content=answer["message"].get("content", ""),
            done_reason=answer.get("done_reason", ""),
            prompt_tokens=answer.get("prompt_eval_count", 0),
        )

    def rendered(self, name: str, messages: Sequence[Message], *, think: bool | None = None) -> str:
        """Return the text that a conversation becomes before it is tokenized."""
        body = self._chat(name, messages, think, _debug_render_only=True)
        answer = self._json("POST", "/api/chat", body, what="a rendered prompt")
        text: str = answer["_debug_info"]["rendered_template"]
        return text

    @staticmethod
    def _chat(name: str, messages: Sequence[Message], think: bool | None, **more: Any) -> dict[str, Any]:
        body = {"model": name, "messages": list(messages), "stream": False, "truncate": False, **more}
        body["keep_alive"] = _LOADED_FOR
        if think is not None:
            body["think"] = think
        return body

    # --- changing ------------------------------------------------------------------------------------------------

    def has_blob(self, sha256: str) -> bool:
        """Say whether the server holds the file with this sha256 already."""
        try:
            status = self._http.head(f"/api/blobs/sha256:{sha256}").status_code
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        if status not in (200, 404):
            raise self._refusal(status, "", "whether it has a file")
        return status == 200

    def upload(self, sha256: str, path: Path, advance: Callable[[int], None]) -> None:
        """Send a file; `advance` is told the bytes sent. Stops only if the server stalls, however long it takes."""
        size = path.stat().st_size
        headers = {"Content-Length": str(size), "Content-Type": "application/octet-stream"}
        try:
            answer = self._http.post(f"/api/blobs/sha256:{sha256}", content=_chunks(path, advance), headers=headers)
        except httpx.TransportError as error:
            raise self._unreachable(error, f"while {path.name} ({size:,} bytes) was sent to it") from error
        self._decoded(answer, f"the file {path.name}")

    def create(self, name: str, request: Mapping[str, Any]) -> list[str]:
        """Create a model from blobs that the server has, and return every status line that it gave."""
        what = f"to create {name}"
        statuses = []
        try:
            with self._http.stream("POST", "/api/create", json={"model": name, **request, "stream": True}) as answer:
                if not answer.is_success:
                    answer.read()
                    self._decoded(answer, what)
                for line in answer.iter_lines():
                    event = json.loads(line) if line else {}
                    if "error" in event:
                        raise self._refusal(answer.status_code, str(event["error"]), what)
                    statuses.append(str(event.get("status", "")))
        except httpx.TransportError as error:
            raise self._unreachable(error, f"while it was asked {what}") from error
        except ValueError as error:
            raise self._not_ollama(str(error)) from error
        if "success" not in statuses:
            raise self._unreachable(None, f"while it was asked {what}")
        return statuses

    def delete(self, name: str) -> None:
        """Remove a model; files that no other model uses go with it. A model that is not there is no error."""
        self._unless_gone("DELETE", "/api/delete", {"model": name}, f"to remove {name}")

    def unload(self, name: str) -> None:
        """Take a model out of memory. A model that is not there is no error."""
        self._unless_gone("POST", "/api/chat", {"model": name, "messages": [], "keep_alive": 0}, f"to unload {name}")

    def _unless_gone(self, method: str, path: str, body: Mapping[str, Any], what: str) -> None:
        try:
            self._json(method, path, body, what=what, timeout=_CLEANUP_SECONDS)
        except RefusalError as refusal:
            if refusal.status != 404:
                raise

    # --- the wire ------------------------------------------------------------------------------------------------

    def _json(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, what: str, timeout: float | None = None
    ) -> dict[str, Any]:
        more: dict[str, Any] = {} if timeout is None else {"timeout": timeout}
        try:
            answer = self._http.request(method, path, json=body, **more)
        except httpx.TransportError as error:
            raise self._unreachable(error, f"when asked for {what}") from error
        return self._decoded(answer, what)

    def _decoded(self, answer: httpx.Response, what: str) -> dict[str, Any]:
        try:
            data = json.loads(answer.content) if answer.content.strip() else {}
        except ValueError:
            data = None
        if answer.status_code >= 400:
            text = str(data["error"]) if isinstance(data, dict) and "error" in data else answer.text[:500]
            raise self._refusal(answer.status_code, text, what)
        if not isinstance(data, dict) or answer.is_redirect:
            raise self._not_ollama(answer.text)
        return data

    def _unreachable(self, error: httpx.TransportError | None, when: str = "") -> StageError:
        how = "broke off" if when and not isinstance(error, httpx.ConnectError) else "does not answer"
        detail = f" ({type(error).__name__}: {error})" if error is not None else ""
        reason, hint = "OllamaUnreachable", f"Start it with `ollama serve`. {_CORRECT_ADDRESS}"
        if "CERTIFICATE_VERIFY_FAILED" in detail:
            reason = "OllamaCertificateNotTrusted"
            hint = "Trust the authority that signed it: `servers[].caBundle`, or SSL_CERT_FILE for `tunesmith run`."
        when = f" {when}" if how == "broke off" else ""
        return StageError(
            ExitCode.UNAVAILABLE, f"the Ollama server {self.called} {how}{when}{detail}", reason=reason, hint=hint
        )

    def _not_ollama(self, text: str) -> StageError:
        return StageError(
            ExitCode.BAD_CONFIG,
            f"what answers as the Ollama server {self.called} is none: {text[:200]!r}",
            reason="NotOllama",
            hint=_CORRECT_ADDRESS,
        )

    def _refusal(self, status: int, text: str, what: str) -> RefusalError:
        code, reason, hint = meaning(status, text)
        message = f"the Ollama server {self.called} refused {what}: {text or 'no reason given'} (HTTP {status})"
        return RefusalError(code, message, status=status, text=text, reason=reason, hint=hint)


def _chunks(path: Path, advance: Callable[[int], None]) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk
            advance(len(chunk))


def _trusted(ca_bundle: str, called: str) -> ssl.SSLContext:
    """Return what certificates are checked with.

    Raises:
        StageError: the bundle holds no certificate.
    """
    if not ca_bundle:
        return httpx.create_ssl_context()  # SSL_CERT_FILE and SSL_CERT_DIR, else the usual authorities
    try:
        # Python takes ASCII alone; anything else stands in a comment between the certificates.
        return ssl.create_default_context(cadata=ca_bundle.encode("ascii", "ignore").decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise StageError(
            ExitCode.BAD_CONFIG,
            f"the certificates given for the Ollama server {called} cannot be read: {error}",
            reason="InvalidCaBundle",
            hint="`servers[].caBundle` must be PEM text: one or more blocks of -----BEGIN CERTIFICATE-----.",
        ) from error
