"""A row of the table of reasons."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from tunesmith_stages.reasons.exit_codes import ExitCode
from tunesmith_stages.reasons.retry import NEVER, Retry


class Where(Enum):
    """Where a reason is read from. The value is for people."""

    PROGRAM = "the stage program"
    EXIT_CODE = "exit code"
    OPERATOR = "the operator"
    ENDED = "container ended"
    """`reason` of the terminated state of the stage's container."""
    HELD_UP = "container waits"
    """`reason` of the waiting state of the stage's container."""
    POD = "pod"
    """`reason` of a pod's status."""
    CONDITION = "pod's condition"
    """A condition of a pod that is true."""
    SCHEDULER = "scheduler"
    """`reason` and `message` of the condition PodScheduled."""
    EVENT = "event"
    """`reason` and `message` of an Event about the Job or its pod."""
    API = "API server"
    """What it says where it refuses an object."""
    LOG = "log"
    """What a library writes: in an exception, or into the log of a process that could not raise one."""
    PEERS = "log of a process that others failed"
    """The same where it tells of another process of the training."""


@dataclass(frozen=True)
class Sign:
    """What a reason is recognised by."""

    where: Where
    word: str = ""
    """The whole word that stands there; empty: any."""
    text: str = ""
    """A regular expression that is searched for in the message, or in the log; empty: any."""

    def matches(self, word: str, text: str) -> bool:
        """Tell whether a word and a message are what it stands for."""
        return self.word in {"", word} and re.search(self.text, text) is not None


@dataclass(frozen=True)
class Reason:
    """What is known of a reason, or of several that mean the same to who reads of them."""

    names: tuple[str, ...]
    """The words, in CamelCase."""
    means: str
    hint: str
    """What to do."""
    classes: tuple[ExitCode, ...] = ()
    """Classes of the failure, the usual one first; none: nothing has failed, or no program tells it."""
    own_retry: Retry | None = None
    """What becomes of it, if that is not what its class says; who has no class needs it."""
    signs: tuple[Sign, ...] = ()
    """What it is recognised by; none: who says it gives its name."""

    @property
    def name(self) -> str:
        """The one word of a reason that does not share its row."""
        (name,) = self.names
        return name

    @property
    def code(self) -> ExitCode:
        """Its class: the first one, where it may become another."""
        return self.classes[0]

    @property
    def retries(self) -> tuple[Retry, ...]:
        """What becomes of it: more than one where that hangs on the class."""
        found = (self.own_retry,) if self.own_retry else tuple(code.retry for code in self.classes) or (NEVER,)
        return tuple(dict.fromkeys(found))
