"""Why a Job failed: by what its program said, how its container ended, and what its node did with its Pods.

What each word that stands there means is in the table of reasons (:mod:`tunesmith_stages.reasons`).
"""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.core.pod_state import Object, conditions_of, exit_code, report_of, status_of, terminated
from tunesmith_stages.contract import ExitCode, Failure, Report
from tunesmith_stages.reasons import recognised
from tunesmith_stages.reasons.classes import INTERRUPTED, OUT_OF_TIME
from tunesmith_stages.reasons.row import Reason, Where

_DISRUPTIONS = [sign.word for sign in INTERRUPTED.signs if sign.where is Where.CONDITION]
_LONGEST = 500
"""Characters of a message that others wrote."""


def is_out_of_time(pods: Sequence[Object]) -> bool:
    """Tell whether a Pod has reached its `activeDeadlineSeconds`."""
    return any(_node_says(pod) is OUT_OF_TIME for pod in pods)


def was_interrupted(job: Object, pods: Sequence[Object], report: Report | None) -> bool:
    """Tell whether a Job that failed was ended from outside, so that its program is not to blame."""
    if is_out_of_time(pods):
        return True
    if _by_its_own_fault(pods) is not None:
        return False
    if report is not None and report.failure is not None:
        return report.failure.code is ExitCode.INTERRUPTED or any(_was_disrupted(pod) for pod in pods)
    failed = conditions_of(job).get("Failed", {})
    if failed.get("reason") == "PodFailurePolicy" and any(word in str(failed.get("message")) for word in _DISRUPTIONS):
        return True
    return any(_was_disrupted(pod) or INTERRUPTED in {_node_says(pod), _code_says(pod)} for pod in pods)


def failure_of(job: Object, pods: Sequence[Object], report: Report | None) -> Failure:
    """Return the best known cause of a Job's failure: the program's own words before nearly anybody else's."""
    if (own := _by_its_own_fault(pods)) is not None:
        return own
    for said in (report, *(report_of(pod) for pod in reversed(pods))):
        if said is not None and said.failure is not None:
            return said.failure
    for pod in reversed(pods):
        if (ended := terminated(pod)) and ended.get("exitCode") != 0:
            return _failure_of_container(ended)
    for pod in reversed(pods):
        if (row := _node_says(pod)) is not None:
            return Failure.of(row, _words_of_node(pod))
    failed = conditions_of(job).get("Failed", {})
    said_of_it = f"{failed.get('reason', 'unknown')}: {failed.get('message', '')}"
    return Failure.of(INTERRUPTED, f"the Job failed ({said_of_it}) and its Pods are gone")


def _was_disrupted(pod: Object) -> bool:
    return any(recognised(Where.CONDITION, kind) is INTERRUPTED for kind in conditions_of(pod))


def _node_says(pod: Object) -> Reason | None:
    """Return what the reason in a Pod's status stands for; its node gives one if it ends the Pod as a whole."""
    word = str(status_of(pod).get("reason", ""))
    return recognised(Where.POD, word, str(status_of(pod).get("message", ""))) if word else None


def _words_of_node(pod: Object) -> str:
    status = status_of(pod)
    return f"{status.get('reason')}: {status.get('message', '')}"[:_LONGEST]


def _code_says(pod: Object) -> Reason | None:
    code = exit_code(pod)
    return None if code is None else recognised(Where.EXIT_CODE, str(code))


def _by_its_own_fault(pods: Sequence[Object]) -> Failure | None:
    """Return the failure of a Pod that its node has ended because it took more than it may; None: none was.

    Its program was only asked to end, and says so.
    """
    for pod in reversed(pods):
        row = _node_says(pod)
        if row is not None and row not in {INTERRUPTED, OUT_OF_TIME}:
            return Failure.of(row, _words_of_node(pod))
    return None


def _failure_of_container(ended: Object) -> Failure:
    code, word = int(ended.get("exitCode", 1)), str(ended.get("reason", ""))
    row = recognised(Where.ENDED, word)
    if row is None:
        return Failure.from_exit_code(code)
    words = ": ".join(filter(None, (f"the container ended with {word}", str(ended.get("message", ""))[:_LONGEST])))
    return Failure.of(row, f"{row.means} ({words})")
