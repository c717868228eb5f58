"""The stage `rehearse`: asks the Ollama server, before any training, whether it would take the model.

A gate: it writes nothing to the server, makes no file and enters no key. It is short so that it can run every time.
"""

from __future__ import annotations

from tunesmith_stages.contract import StageName
from tunesmith_stages.ollama import Ollama
from tunesmith_stages.ollama_gate import require_names, require_supported
from tunesmith_stages.program import Made, Work, main


def rehearse(work: Work) -> Made:
    """Check that the server answers, that it is new enough, and that it would accept every name."""
    require_names(work.params["model"], work.params["quantizations"])
    with Ollama(work.runtime["server"]) as server:
        version = server.version()
    require_supported(version, work.progress.note)
    return Made(tools={"ollama": version})


if __name__ == "__main__":
    main(StageName.REHEARSE, rehearse)
