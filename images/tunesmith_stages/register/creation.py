"""The two ways in which a server gets a model: by HTTP, or by ``ollama create`` inside its pod.

Both make the same manifest, to the digest: in the pod, ``ollama`` reads the Modelfile and sends the request that the
other way sends. (Only a decimal of more than seven digits differs: ``ollama`` rounds it to 32 bits on the way.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.ollama import Ollama
from tunesmith_stages.ollama_gate import exec_settings, require_own_template
from tunesmith_stages.ollama_pod import OllamaPod
from tunesmith_stages.program import StageError, Work
from tunesmith_stages.register.candidates import Candidate


class Creation(Protocol):
    """Creates a candidate on the server under any name."""

    def create(self, name: str, candidate: Candidate, *, digest: str | None = None) -> None:
        """Create the model `name`.

        Args:
            name: its name; what the server has under it is replaced.
            candidate: what it is made from.
            digest: the manifest digest that comes of it, if it is known: by it a lost answer is made up for.
        """


def creation(work: Work, name: str, server: Ollama, parameters: Mapping[str, Any]) -> Creation:
    """Return the way that the job asks for, into the server that the administrator calls `name`."""
    settings = exec_settings(work.runtime, name)
    if settings is None:
        return ByApi(work, server, parameters)
    return ByExec(work, server, OllamaPod(server, settings))


class ByApi:
    """Sends the file, then the request. Needs no rights in the cluster."""

    def __init__(self, work: Work, server: Ollama, parameters: Mapping[str, Any]) -> None:
        self._work = work
        self._server = server
        self._parameters = parameters

    def create(self, name: str, candidate: Candidate, *, digest: str | None = None) -> None:  # noqa: ARG002 - see Creation
        """Send the file if the server does not have it, and create the model from it."""
        if not self._server.has_blob(candidate.sha256):
            self._work.progress.note(f"sending {candidate.quantization} to {self._server.called}")
            advance = self._work.progress.counter(candidate.gguf.stat().st_size, "bytes sent")
            self._server.upload(candidate.sha256, candidate.gguf, advance)
        require_own_template(self._server.create(name, self._request(candidate)))

    def _request(self, candidate: Candidate) -> dict[str, Any]:
        request: dict[str, Any] = {
            "files": {"model.gguf": f"sha256:{candidate.sha256}"},
            "parameters": dict(self._parameters),
        }
        for field in ("system", "license"):
            if self._work.params.get(field):
                request[field] = self._work.params[field]
        return request


class ByExec:
    """Runs ``ollama create`` where the server reads the file from the volume itself."""

    def __init__(self, work: Work, server: Ollama, pod: OllamaPod) -> None:
        self._work = work
        self._server = server
        self._pod = pod

    def create(self, name: str, candidate: Candidate, *, digest: str | None = None) -> None:
        """Create the model from its Modelfile, and check that the pod read what lies on our volume."""
        self._pod.create(
            name,
            self._work.volume.relative(candidate.modelfile),
            is_there=None if digest is None else lambda: self._server.digest(name) == digest,
            copied=lambda percent: self._work.progress.count(percent, 100, "percent copied"),
        )
        self._require_our_file(name, candidate)
        self._require_our_texts(name)

    def _require_our_file(self, name: str, candidate: Candidate) -> None:
        found = self._server.file_of(name)
        if found != candidate.sha256:
            raise StageError(
                ExitCode.BAD_DATA,
                f"the Ollama pod read another file than the {candidate.quantization} that was made: its sha256 is "
                f"{found}, not {candidate.sha256}",
                reason="DamagedModelFile",
                hint="If the pod mounts the same volume, the file changed there: remove it, then it is made again.",
            )

    def _require_our_texts(self, name: str) -> None:
        shown = self._server.show(name)
        for field in ("system", "license"):
            asked = self._work.params.get(field) or ""
            if shown.get(field, "") != asked:
                raise StageError(
                    ExitCode.GATE_FAILED,
                    f"`ollama.{field}` did not arrive as it is: Ollama has {shown.get(field, '')!r}, not {asked!r}",
                    reason="ModelfileReadDifferently",
                    hint="Report it. The method API does not go by a Modelfile.",
                )
