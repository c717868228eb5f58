"""A model without weights, which a server stores: with it the right to create one is asked for in no time."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from typing import Any

from tunesmith_stages import model_name
from tunesmith_stages.contract import ExitCode
from tunesmith_stages.ollama import Ollama
from tunesmith_stages.ollama_gate import EXEC
from tunesmith_stages.program import StageError, Work
from tunesmith_stages.register.candidates import Candidate, write_modelfiles
from tunesmith_stages.register.creation import Creation
from tunesmith_stages.throw_away import throw_away_names


def empty_candidate(work: Work, parameters: Mapping[str, Any]) -> Candidate:
    """Write a model without weights and, if the method goes by one, its Modelfile.

    Raises:
        StageError: the texts of the job have no place in a Modelfile.
    """
    name = model_name.check_name(work.unit.key, work.volume.identity(), work.config.attempt, "rehearsal")
    content = empty_gguf(name)
    gguf = work.out / "empty.gguf"
    gguf.write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    candidate = Candidate("an empty model", gguf, sha256, name, name, work.out / "Modelfile")
    if work.runtime["method"] == EXEC:
        write_modelfiles(work, [candidate], parameters)
    return candidate


def create_and_remove(work: Work, server: Ollama, way: Creation, candidate: Candidate) -> str:
    """Create a model as `register` will, and remove it.

    Raises:
        StageError: the server, or what stands before it, does not let that happen.
    """
    name = candidate.check_name
    prefix = model_name.check_prefix(work.unit.key, work.volume.identity())
    with throw_away_names(server, prefix, [name]):
        way.create(name, candidate)
        if server.digest(name) is None:
            raise _differs(server, f"does not have {name}, which it has just created")
        server.delete(name)
        if server.digest(name) is not None:
            raise _differs(server, f"still has {name}, which it has just removed")
    return f"the Ollama server {server.called} lets models be created and removed"


def _differs(server: Ollama, how: str) -> StageError:
    return StageError(
        ExitCode.BAD_CONFIG,
        f"the Ollama server {server.called} {how}",
        reason="OllamaInconsistent",
        hint="Its address must lead to one server: not to several replicas, and through no proxy that answers for it.",
    )


def empty_gguf(name: str) -> bytes:
    """Return a GGUF (version 3) without tensors, which a server stores.

    It has a name (ASCII), so that no two rehearsals have a file in common, which one would remove from under the other.
    https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
    """

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode("ascii")

    string_type = struct.pack("<I", 8)
    entries = {"general.architecture": "none", "general.name": name}
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, len(entries))
    return head + b"".join(text(key) + string_type + text(value) for key, value in entries.items())
