"""The stage `rehearse`: asks, before any training, whether what comes after it could work.

The Ollama server must take the model, and the base must have the modules that LoRA is to adapt. A gate: it writes
nothing to the server, makes no file and enters no key. It is short so that it can run every time.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tunesmith_stages.contract import ALL_LINEAR, ExitCode, StageName
from tunesmith_stages.fetch import check_safetensors
from tunesmith_stages.ollama import Ollama
from tunesmith_stages.ollama_gate import require_names, require_supported
from tunesmith_stages.program import Made, StageError, Work, main


def rehearse(work: Work) -> Made:
    """Check that the server answers, is new enough and would accept every name; and that LoRA has what it adapts."""
    require_names(work.params["model"], work.params["quantizations"])
    require_modules(work.input("base"), work.params["targetModules"])
    with Ollama(work.runtime["server"]) as server:
        version = server.version()
    require_supported(version, work.progress.note)
    return Made(tools={"ollama": version})


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
