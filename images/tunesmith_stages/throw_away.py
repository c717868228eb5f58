"""Names under which models are tried on a server before they get their own: none of them stays behind."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tunesmith_stages.ollama import Ollama
from tunesmith_stages.ollama_refusal import RefusalError
from tunesmith_stages.program import StageError

log = logging.getLogger(__name__)


@contextmanager
def throw_away_names(server: Ollama, prefix: str, names: Sequence[str]) -> Iterator[None]:
    """Remove the models `names` when the block ends, however it ends; and at once what killed attempts left.

    Args:
        server: where they are.
        prefix: by which names of earlier attempts are known (:func:`tunesmith_stages.model_name.check_prefix`).
        names: made with :func:`tunesmith_stages.model_name.check_name`.
    """
    for name in server.models():
        if name.startswith(prefix):
            log.info("removing %s, left by an attempt that was killed", name)
            server.delete(name)
    try:
        yield
    finally:
        for name in names:
            try:
                remove_model(server, name)
            except StageError as error:  # what ended the stage is worth more to a reader than this
                log.warning("%s could not be removed: %s", name, error.message)
                break


def remove_model(server: Ollama, name: str) -> None:
    """Take a model out of memory and remove it. One that is not there is no error.

    Raises:
        StageError: the server does not answer, or refuses.
    """
    try:
        server.unload(name)
    except RefusalError as refusal:  # such as by a proxy that waits for no answer of a model; it may be removed still
        log.warning("%s could not be unloaded: %s", name, refusal.message)
    server.delete(name)
