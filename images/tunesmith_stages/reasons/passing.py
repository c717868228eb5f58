"""Reasons: it failed by something that may pass."""

from __future__ import annotations

from tunesmith_stages.reasons.exit_codes import ExitCode
from tunesmith_stages.reasons.retry import LATER
from tunesmith_stages.reasons.row import Reason

_MISSING = ExitCode.MISSING_INPUT
_UNAVAILABLE = ExitCode.UNAVAILABLE
_SPACE = ExitCode.NO_SPACE
_TEMPORARY = ExitCode.TEMPORARY

PASSING = (
    Reason(
        ("HubUnavailable",),
        "The hub does not answer, or says that it cannot now. What came is kept.",
        "The administrator's `network` settings, proxies, egress.",
        (_UNAVAILABLE,),
    ),
    Reason(
        ("InputLost",),
        "A result of an earlier stage is gone from the volume, or is another. That stage is made again.",
        "Who removes or changes files below `store/` and `stages/`?",
        (_MISSING,),
        own_retry=LATER,
    ),
    Reason(
        ("OllamaUnreachable",),
        "Nothing answers at the server's address, or it broke off.",
        "The Ollama pod; `servers[].url` as pods reach it; NetworkPolicies for `rehearse` and `register`.",
        (_UNAVAILABLE,),
    ),
    Reason(
        ("OllamaCertificateNotTrusted",),
        "The server's certificate is signed by an authority that is not trusted.",
        "`servers[].caBundle`.",
        (_UNAVAILABLE,),
    ),
    Reason(
        ("OllamaBusy",),
        "The server has too many requests, or the proxy before it does not reach it.",
        "Its load.",
        (_UNAVAILABLE,),
    ),
    Reason(
        ("OllamaProxyTimeout",),
        "A proxy before the server gave up waiting.",
        "Raise its timeout to 15 minutes: large models load slowly.",
        (_UNAVAILABLE,),
    ),
    Reason(
        ("OllamaNoSpace",),
        "The server's own disk is full.",
        "`ollama rm` there, or a larger claim.",
        (_SPACE,),
    ),
    Reason(
        ("OllamaPodNotFound", "OllamaPodNotReady"),
        "Exec: the pod of `servers[].exec` is not there, or does not run.",
        "Start it, or correct the name.",
        (_UNAVAILABLE,),
    ),
    Reason(
        ("KubernetesUnreachable",),
        "Exec: the pod of the stage does not reach the API server.",
        "NetworkPolicies; proxies in `podDefaults` without `NO_PROXY`.",
        (_UNAVAILABLE,),
    ),
    Reason(
        ("ExecLost",),
        "Exec: the connection ended, and it is not known what came of the command.",
        "Restarts of the Ollama pod.",
        (_UNAVAILABLE,),
    ),
    Reason(
        ("BatchReduced",),
        "Several nodes, `onOutOfMemory: Reduce`: memory ran out; it goes on with smaller batches in more passes.",
        "Nothing; the sentence has the new split.",
        (_TEMPORARY,),
    ),
    Reason(
        ("NodesNotReady",),
        "Several nodes: some pods of the training did not start within 15 minutes.",
        "Capacity for all of them at once, or a queue; image pull times; NetworkPolicies between the pods.",
        (_TEMPORARY,),
    ),
    Reason(
        ("NodeLost",),
        "Several nodes: one pod ended without a word.",
        "Its pod and node: memory, eviction.",
        (_TEMPORARY,),
    ),
    Reason(
        ("MasterUnreachable",),
        "Several nodes: pod 0 cannot listen under its own name.",
        "DNS of the cluster.",
        (_TEMPORARY,),
    ),
    Reason(
        ("RankKilled",),
        "A process of the training was killed, and not for want of memory: the kernel counts no such case.",
        "Who kills processes on that node? It goes on from the last checkpoint.",
        (_TEMPORARY,),
    ),
)
