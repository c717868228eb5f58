"""The stage `rehearse`: asks, before any training, whether what comes after it could work.

Every Ollama server must take the model, and the base must have the modules that LoRA is to adapt. Where models are to
be created inside a server's pod, a model without weights is created in that way, from a file on the volume, looked for
on the server and removed. So the right to do it, the volume's place in the pod, and that the pod is that server are
proven before a GPU is asked for. A gate: it enters no key and leaves nothing behind. It is short, to run every time.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith_stages import model_name
from tunesmith_stages.contract import ALL_LINEAR, ExitCode, StageName
from tunesmith_stages.fetch import check_safetensors
from tunesmith_stages.ollama import Ollama
from tunesmith_stages.ollama_gate import connect, exec_settings, require_names, require_supported
from tunesmith_stages.ollama_pod import OllamaPod
from tunesmith_stages.program import Made, StageError, Work, main
from tunesmith_stages.throw_away import throw_away_names


def rehearse(work: Work) -> Made:
    """Check that each server answers, is new enough and would take every name; and that LoRA has what it adapts."""
    require_names(work.params["model"], work.params["quantizations"])
    require_modules(work.input("base"), work.params["targetModules"])
    versions = {}
    for name in work.params["servers"]:
        with connect(work.runtime, name) as server:
            versions[name] = server.version()
            require_supported(versions[name], work.progress.note)
            settings = exec_settings(work.runtime, name)
            if settings is not None:
                _create_inside(work, server, settings)
    return Made(outputs={"servers": versions}, tools={"ollama": ", ".join(sorted(set(versions.values())))})


def _create_inside(work: Work, server: Ollama, settings: Mapping[str, Any]) -> None:
    """Create a model in the server's pod as `register` will, and remove it.

    Raises:
        StageError: see :class:`.ollama_pod.OllamaPod`.
    """
    (work.out / "empty.gguf").write_bytes(_empty_gguf())
    modelfile = work.out / "Modelfile"
    modelfile.write_text("FROM ./empty.gguf\n", encoding="utf-8")
    name = model_name.check_name(work.unit.key, work.config.attempt, "rehearsal")
    with throw_away_names(server, work.unit.key, [name]):
        OllamaPod(server, settings).create(name, work.volume.relative(modelfile))


def _empty_gguf() -> bytes:
    """Return a GGUF (version 3) without tensors, whose only entry names an architecture: a server stores it.

    https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
    """

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    string_type = 8
    entry = text("general.architecture") + struct.pack("<I", string_type) + text("none")
    return b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + entry


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
