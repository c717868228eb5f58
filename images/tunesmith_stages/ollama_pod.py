"""Creates models by running ``ollama create`` inside the Ollama pod, which reads them from the volume that it mounts.

The command is always ``ollama create NAME -f PATH``: the chart's ValidatingAdmissionPolicy lets nothing else make a
model. Whether it did is not taken from its words alone: the server must then have the model. So a connection that was
lost on the way is no failure if the server has it, and a pod that belongs to another server is found out.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.ollama import Ollama
from tunesmith_stages.ollama_gate import require_own_template
from tunesmith_stages.ollama_refusal import RefusalError, meaning
from tunesmith_stages.pod_exec import Ended, Pod, execute
from tunesmith_stages.program import StageError

log = logging.getLogger(__name__)

_WAITS = (1.0, 3.0, 10.0)
"""Seconds before each further try: a restarted kubelet or API server is back by then."""
_LOST = "ExecLost"
_PASSING = {_LOST, "ExecForbidden", "OllamaPodNotFound", "OllamaPodNotReady", "KubernetesUnreachable"}
"""Reasons that may pass within seconds. A restarted API server answers 403 for a moment."""
_KILLED = 128
"""Exit codes above say by which signal a program was killed, as happens when its container ends."""
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_COPIED = re.compile(r"copying file sha256:[0-9a-f]+ (\d+)%")
_MOUNT_HINT = (
    "The Ollama pod must mount the same volume, readable for its user, at `servers[].exec.volumeMountPath` of the "
    "administrator's settings."
)


class OllamaPod:
    """The pod behind a server.

    Args:
        server: the same server by HTTP.
        settings: ``namespace``, ``pod``, ``container`` and ``volumeMountPath``: where the pod sees the root of the
            volume that the stage programs see.
    """

    def __init__(self, server: Ollama, settings: Mapping[str, Any]) -> None:
        self._server = server
        self._pod = Pod(settings["namespace"], settings["pod"], settings["container"])
        self._mount = PurePosixPath(settings["volumeMountPath"])

    def command(self, name: str, modelfile: str) -> list[str]:
        """Return the command that makes the model `name`; `modelfile` is relative to the volume's root."""
        return ["ollama", "create", name, "-f", str(self._mount / modelfile)]

    def create(
        self,
        name: str,
        modelfile: str,
        *,
        is_there: Callable[[], bool] | None = None,
        copied: Callable[[int], None] = lambda _percent: None,
    ) -> None:
        """Create the model `name` from a Modelfile on the volume, however often the way there breaks off.

        Args:
            name: the model's name, of which the server has nothing yet or something else.
            modelfile: relative to the volume's root.
            is_there: whether the server has what is to be made; by default whether it has the name.
            copied: is told how many percent of the weights' file the server has.

        Raises:
            StageError: the pod may not or cannot run it, cannot see the volume, or ``ollama`` refused.
        """
        is_there = is_there or (lambda: self._server.digest(name) is not None)
        waits = iter(_WAITS)
        while True:
            try:
                self._create_once(name, modelfile, copied)
                break
            except StageError as error:
                wait = next(waits, None) if error.reason in _PASSING else None
                if wait is None:
                    raise
                log.warning("%s; trying again in %.0f s", error.message, wait)
                time.sleep(wait)
                if error.reason == _LOST and is_there():
                    break
        if self._server.digest(name) is None:
            self._remove(name)
            raise StageError(
                ExitCode.BAD_CONFIG,
                f"the pod {self._pod} created {name}, but the Ollama server {self._server.called} does not have it",
                reason="OllamaPodDiffers",
                hint="`servers[].url` and `servers[].exec` must mean one and the same server, of one replica.",
            )

    def _remove(self, name: str) -> None:
        """Remove a model that the server at our address knows nothing of, so that it is not left in the pod."""
        try:
            result = execute(self._pod, ["ollama", "rm", name], lambda _text: None)
            trouble = "" if result.code == 0 else result.trouble or " / ".join(said(result.output))
        except StageError as error:  # that the pod is another server is worth more to a reader than this
            trouble = error.message
        if trouble:
            log.warning("%s could not be removed from the pod %s: %s", name, self._pod, trouble)

    def _create_once(self, name: str, modelfile: str, copied: Callable[[int], None]) -> None:
        last = -1

        def watch(text: str) -> None:
            nonlocal last
            percents = _COPIED.findall(text)
            if percents and int(percents[-1]) != last:
                last = int(percents[-1])
                copied(last)

        command = self.command(name, modelfile)
        result = execute(self._pod, command, watch)
        if result.code != 0:
            raise failure(self._pod, command, result)
        require_own_template(said(result.output))


def said(output: str) -> list[str]:
    """Return the lines of what ``ollama`` wrote, each once: without colours, cursor movements and repetitions."""
    lines = (line.strip() for line in re.split(r"[\r\n]", _CONTROL.sub("\n", output)))
    return list(dict.fromkeys(line for line in lines if line))


def failure(pod: Pod, command: list[str], result: Ended) -> StageError:
    """Return the error for a command that did not end well, by what it or the node said."""
    what = f"`{' '.join(command)}` in the pod {pod}"
    if result.code is None or result.code > _KILLED:
        if "executable file not found" in result.trouble:
            return StageError(
                ExitCode.BAD_CONFIG,
                f"there is no `ollama` in the pod {pod}: {result.trouble}",
                reason="OllamaNotInContainer",
                hint="Correct the container's name in `servers[].exec` of the administrator's settings.",
            )
        return StageError(
            ExitCode.UNAVAILABLE,
            f"how {what} ended is not known: {result.trouble or f'it was killed (exit code {result.code})'}",
            reason=_LOST,
            hint="See the pod's state with `kubectl describe pod`.",
        )
    lines = said(result.output)
    text = next((line.removeprefix("Error:").strip() for line in lines if line.startswith("Error:")), "")
    message = f"{what} ended with exit code {result.code}: {text or ' / '.join(lines[-3:]) or 'no reason given'}"
    # A Modelfile that is not there is taken for `FROM .`; a file that is not there, for the name of a model.
    if any(words in text for words in ("no Modelfile", "400 Bad Request: invalid model name", "no such file")):
        message = f"the Ollama pod does not see the volume's files: {message}"
        return StageError(ExitCode.BAD_CONFIG, message, reason="VolumeNotInOllamaPod", hint=_MOUNT_HINT)
    if "permission denied" in text:
        message = f"the Ollama pod may not read the volume's files: {message}"
        return StageError(ExitCode.NO_PERMISSION, message, reason="VolumeNotReadableInOllamaPod", hint=_MOUNT_HINT)
    if "could not connect to ollama server" in text:
        hint = "See the log of the Ollama pod."
        return StageError(ExitCode.UNAVAILABLE, message, reason="OllamaUnreachable", hint=hint)
    code, reason, hint = meaning(0, text)
    return RefusalError(code, message, status=0, text=text, reason=reason, hint=hint)
