"""The stage `rehearse`: asks, before any training, whether what comes after it could work.

The base must have the modules that LoRA is to adapt, and whatever `register` can refuse without the trained model is
refused here. Then a model without weights is created on every Ollama server, in the way and with the texts and
parameters with which `register` will create the trained one, looked for, and removed. So the right to do it, a proxy on
the way and, where models are created inside a server's pod, the volume's place in it, and that the pod is that server
are proven before a GPU is asked for. A gate: it enters no key and leaves nothing behind. It is short, to run each time.
"""

from __future__ import annotations

if __name__ == "__main__":  # before what takes its time
    from tunesmith_stages.early_stop import stop_at_once

    stop_at_once()

import hashlib
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith_stages import model_name
from tunesmith_stages.contract import ALL_LINEAR, ExitCode, StageName
from tunesmith_stages.fetch import check_safetensors
from tunesmith_stages.ollama import Ollama
from tunesmith_stages.ollama_gate import EXEC, connect, require_names, require_supported, typed_parameters
from tunesmith_stages.program import Made, StageError, Work, main
from tunesmith_stages.register.candidates import DEFAULT_NUM_CTX, Candidate, require_context, write_modelfiles
from tunesmith_stages.register.creation import Creation, creation
from tunesmith_stages.register.reference import probes_of
from tunesmith_stages.throw_away import throw_away_names


def rehearse(work: Work) -> Made:
    """Check what can be checked without a server, then that each server takes a model; see the module."""
    parameters = typed_parameters(work.params["parameters"])
    require_names(work.params["model"], work.params["quantizations"])
    require_modules(work.input("base"), work.params["targetModules"])
    require_context(probes_of(work.input("prepared")), parameters.get("num_ctx") or DEFAULT_NUM_CTX)
    candidate = _empty_candidate(work, parameters)
    versions = {}
    for name in work.params["servers"]:
        with connect(work.runtime, name) as server:
            versions[name] = server.version()
            require_supported(versions[name], work.progress.note)
            _create_and_remove(work, server, creation(work, name, server, parameters), candidate)
    return Made(outputs={"servers": versions}, tools={"ollama": ", ".join(sorted(set(versions.values())))})


def _empty_candidate(work: Work, parameters: Mapping[str, Any]) -> Candidate:
    """Write a model without weights and, if the method goes by one, its Modelfile.

    Raises:
        StageError: the texts of the job have no place in a Modelfile.
    """
    name = model_name.check_name(work.unit.key, work.config.attempt, "rehearsal")
    content = empty_gguf(name)
    gguf = work.out / "empty.gguf"
    gguf.write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    candidate = Candidate("an empty model", gguf, sha256, name, name, work.out / "Modelfile")
    if work.runtime["method"] == EXEC:
        write_modelfiles(work, [candidate], parameters)
    return candidate


def _create_and_remove(work: Work, server: Ollama, way: Creation, candidate: Candidate) -> None:
    """Create a model as `register` will, and remove it.

    Raises:
        StageError: the server, or what stands before it, does not let that happen.
    """
    name = candidate.check_name
    with throw_away_names(server, work.unit.key, [name]):
        way.create(name, candidate)
        if server.digest(name) is None:
            raise _differs(server, f"does not have {name}, which it has just created")
        server.delete(name)
        if server.digest(name) is not None:
            raise _differs(server, f"still has {name}, which it has just removed")


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


def require_modules(base: Path, targets: Sequence[str]) -> None:
    """Check that every target module is one of the base's matrices, by the names in its weight files.

    Raises:
        StageError: one is not.
    """
    wanted = [target for target in targets if target != ALL_LINEAR]
    if not wanted:
        return
    tensors = {name: info for path in base.glob("*.safetensors") for name, info in check_safetensors(path).items()}
    modules = {name.removesuffix(".weight") for name, info in tensors.items() if len(info["shape"]) > 1}
    for target in wanted:
        if not any(module == target or module.endswith(f".{target}") for module in modules):
            known = sorted({module.rpartition(".")[2] for module in modules})
            raise StageError(
                ExitCode.BAD_CONFIG,
                f"`training.lora.targetModules` names {target!r}, which the base model does not have; it has "
                f"{', '.join(known)}",
                reason="TargetModuleUnknown",
                hint=f"Name some of these, or {ALL_LINEAR}.",
            )


if __name__ == "__main__":
    main(StageName.REHEARSE, rehearse)
