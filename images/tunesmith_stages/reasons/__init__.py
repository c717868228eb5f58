"""Every reason for which a job stands where it stands, or fails: the one table of them.

A reason is one word in CamelCase. The table says what it means, what to do, of which class of failure it is, whether
and when the work is begun again, whether that counts as a failure, and by what the reason is recognised. The stage
programs, the operator and ``docs/troubleshooting.md`` (by `make generate`) take all of that from here and keep no list
of their own. Pure: the standard library alone, no input or output.

A reason that comes new gets a row in the module of its group. Programs that raise it give sentences of their own; what
is recognised by a sign (:class:`.row.Sign`) needs nothing but the row.
"""

from __future__ import annotations

from collections.abc import Mapping

from tunesmith_stages.reasons.base_model import BASE_MODEL
from tunesmith_stages.reasons.classes import CLASS_ROWS, WITHOUT_A_WORD
from tunesmith_stages.reasons.cluster import CLUSTER
from tunesmith_stages.reasons.data import DATA
from tunesmith_stages.reasons.disk import DISK
from tunesmith_stages.reasons.exit_codes import ExitCode
from tunesmith_stages.reasons.going_on import GOING_ON
from tunesmith_stages.reasons.gpu import GPUS, PEERS
from tunesmith_stages.reasons.job import JOB
from tunesmith_stages.reasons.ollama import OLLAMA
from tunesmith_stages.reasons.passing import PASSING
from tunesmith_stages.reasons.proofs import PROOFS
from tunesmith_stages.reasons.retry import Retry
from tunesmith_stages.reasons.row import Reason, Where
from tunesmith_stages.reasons.template import TEMPLATE
from tunesmith_stages.reasons.waiting import WAITING

GROUPS: Mapping[str, tuple[Reason, ...]] = {
    "it goes on": GOING_ON,
    "it waits": WAITING,
    "without a word": WITHOUT_A_WORD,
    "classes": CLASS_ROWS,
    "gpus": GPUS,
    "processes that wait for each other": PEERS,
    "it may pass": PASSING,
    "the disk": DISK,
    "the job": JOB,
    "the base model": BASE_MODEL,
    "the data": DATA,
    "the chat template": TEMPLATE,
    "the cluster": CLUSTER,
    "Ollama": OLLAMA,
    "a proof failed": PROOFS,
}
"""The rows in the groups in which people look for them."""

REASONS: Mapping[str, Reason] = {name: row for rows in GROUPS.values() for row in rows for name in row.names}
"""Every row by each of its words."""

_IN_ORDER = (*DISK, *WITHOUT_A_WORD, *GPUS, *PEERS, *CLASS_ROWS, *BASE_MODEL, *WAITING)
"""Who is asked for a sign before whom: a more specific one first."""


def recognised(where: Where, word: str = "", text: str = "") -> Reason | None:
    """Return the reason of what stands at a place: the first row with a sign that matches; None: nothing known.

    Args:
        where: the place.
        word: the reason, exit code or name that stands there.
        text: the message, or the log.
    """
    signs = ((row, sign) for row in _IN_ORDER for sign in row.signs if sign.where is where)
    return next((row for row, sign in signs if sign.matches(word, text)), None)


def retry_of(reason: str, code: ExitCode) -> Retry:
    """Return what becomes of work that failed for `reason`, with `code` as the class; by that alone if it is unknown.

    A word that a program of another version gives has no row, and one that the table does not know in this class says
    nothing of it.
    """
    row = REASONS.get(reason)
    own = row.own_retry if row is not None and code in row.classes else None
    return own or code.retry
