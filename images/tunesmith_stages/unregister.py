"""Removes from the Ollama servers what a FineTuneJob has registered there, and nothing else.

``python -m tunesmith_stages.unregister --config stage.json --report FILE`` makes nothing. Its ``stage.json`` is one of
`register` without units; its ``runtime`` has

- ``servers``: how each is reached, as for `register`,
- ``names``: by server, the names that may be removed,
- ``served``: by server, those of which it is known that they were registered,
- ``keys``: of the units of `register` that may have made them,
- ``seconds``: how long a server that does not answer is asked again.

A model goes only if the server has under its name the very manifest that a note of those units on the volume tells of
(:mod:`.live_record`). What somebody else has put there meanwhile stays. Ollama has no removal on condition: between the
look and the removal there is a moment in which a model could still be replaced.
"""

from __future__ import annotations

if __name__ == "__main__":  # before what takes its time
    from tunesmith_stages.early_stop import stop_at_once

    stop_at_once()

import logging
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tunesmith_stages import model_name
from tunesmith_stages.authorities import trust_given_authorities
from tunesmith_stages.contract import Failure, Report, StageConfig, StageName
from tunesmith_stages.failures import StageError
from tunesmith_stages.live_record import registered
from tunesmith_stages.ollama import Ollama
from tunesmith_stages.ollama_gate import connect
from tunesmith_stages.preconditions import require_volume
from tunesmith_stages.program import read_config
from tunesmith_stages.reasons import retry_of
from tunesmith_stages.reporting import reported
from tunesmith_stages.throw_away import remove_model
from tunesmith_stages.volume import Volume

log = logging.getLogger(__name__)

_AGAIN_SECONDS = 5.0

Own = Mapping[tuple[str, str], set[str]]
"""By server and name, the digests of what was registered there."""


@dataclass
class Removal:
    """What became of each name so far."""

    removed: int = 0
    gone: int = 0
    """Names that the server does not have any more."""
    replaced: int = 0
    """Names under which the server has somebody else's model."""
    unknown: int = 0
    """Names that were registered, and of which the volume does not say as which model."""
    left: dict[str, list[str]] = field(default_factory=dict)
    """By server, what is still to be done."""
    troubles: dict[str, StageError] = field(default_factory=dict)
    """By server, why it is."""

    @property
    def may_pass(self) -> bool:
        """Whether asking again can help."""
        return any(retry_of(trouble.reason, trouble.code).tried for trouble in self.troubles.values())

    def report(self) -> Report:
        """Return what is told at the end."""
        counts = {name: getattr(self, name) for name in ("removed", "gone", "replaced", "unknown")}
        return Report(numbers=counts, failure=self._failure() if self.troubles else None)

    def _failure(self) -> Failure:
        said = "; ".join(f"{', '.join(self.left[at])} on `{at}`: {why.message}" for at, why in self.troubles.items())
        worst = next(iter(self.troubles.values()))
        return Failure(worst.code, worst.reason, f"not removed: {said}", worst.hint)


def unregister(config: StageConfig, *, sleep: Callable[[float], None] = time.sleep) -> Report:
    """Remove what `config` names from every server; ask those that do not answer again, until the time is up.

    Raises:
        StageError: the volume is not there, or may not be read.
    """
    volume, runtime = Volume(Path(config.volume)), config.runtime
    require_volume(volume)
    own = _own(volume, runtime["keys"])
    tried = _throw_away_prefixes(volume, runtime["keys"])
    removal = Removal(left={server: list(names) for server, names in runtime["names"].items()})
    last = time.monotonic() + runtime["seconds"] - _AGAIN_SECONDS
    while True:
        for name in list(removal.left):
            try:
                with connect(runtime, name) as server:
                    _remove_throw_away(server, tried)
                    _clean(server, name, own, runtime["served"].get(name, ()), removal)
            except StageError as trouble:
                log.warning("%s", trouble.message)
                removal.troubles[name] = trouble
            else:
                del removal.left[name]
                removal.troubles.pop(name, None)
        if not removal.may_pass or time.monotonic() >= last:
            return removal.report()
        sleep(_AGAIN_SECONDS)


def _own(volume: Volume, keys: Iterable[str]) -> Own:
    own: dict[tuple[str, str], set[str]] = defaultdict(set)
    for key in keys:
        for server, name, digest in registered(volume, key):
            own[server, name].add(digest)
    return own


def _throw_away_prefixes(volume: Volume, keys: Iterable[str]) -> tuple[str, ...]:
    """Return how the names begin under which attempts that were killed may have left what they tried."""
    if not volume.units(StageName.REGISTER).is_dir():
        return ()  # nothing was ever registered from this volume
    return tuple(model_name.check_prefix(key, volume.identity()) for key in keys)


def _remove_throw_away(server: Ollama, prefixes: tuple[str, ...]) -> None:
    for name in server.models():
        if prefixes and name.startswith(prefixes):
            log.info("removing %s, left by an attempt that was killed", name)
            server.delete(name)


def _clean(server: Ollama, called: str, own: Own, served: Collection[str], removal: Removal) -> None:
    """Remove what is ours from one server, and take each name that is settled out of what is left."""
    for name in list(removal.left[called]):
        mine, found = own.get((called, model_name.canonical(name)), set()), server.digest(name)
        if found is None:
            removal.gone += 1
            log.info("%s is not on %s", name, server.called)
        elif found in mine:
            remove_model(server, name)
            removal.removed += 1
            log.info("removed %s from %s", name, server.called)
        elif mine:
            removal.replaced += 1
            log.info("%s on %s is another one by now and stays", name, server.called)
        else:
            removal.unknown += name in served
            log.warning("%s on %s stays: nothing on the volume says that it was registered", name, server.called)
        removal.left[called].remove(name)


def main() -> int:
    """Remove, write the report, return the exit code."""

    def remove(config: Path) -> Report:
        trust_given_authorities()
        return unregister(read_config(config, StageName.REGISTER))

    return reported("tunesmith_stages.unregister", (unregister.__doc__ or "").splitlines()[0], remove)


if __name__ == "__main__":
    sys.exit(main())
