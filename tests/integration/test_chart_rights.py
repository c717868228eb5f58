"""What the chart's accounts may do, asked of a real API server: everything that is listed here and nothing else."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config

from support.chart import EXEC, Helm, add_namespaces, install, uninstall_all, wait_until
from support.cluster import ApiServer, api_server

Rights = dict[tuple[str, str], set[str]]
"""Verbs by group and resource; `resource:name` is one object of it."""

OPERATOR: Rights = {
    ("tunesmith.dev", "finetunejobs"): {"get", "list", "watch"},
    ("tunesmith.dev", "finetunejobs/status"): {"update"},
    ("tunesmith.dev", "finetunejobs/finalizers"): {"update"},
    ("batch", "jobs"): {"get", "list", "watch", "create", "delete"},
    ("", "pods"): {"get", "list", "watch"},
    ("", "pods/log"): {"get"},
    ("", "configmaps"): {"create", "delete"},
    ("", "services"): {"create", "delete"},
    ("", "events"): {"create", "list"},
}
LEASE: Rights = {
    ("coordination.k8s.io", "leases"): {"create"},
    ("coordination.k8s.io", "leases:tunesmith-operator"): {"get", "update"},
}
EVERYBODY = {
    ("authorization.k8s.io", "selfsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectrulesreviews"),
    ("authentication.k8s.io", "selfsubjectreviews"),
}
_NAMESPACES = ("tunesmith", "team-a", "team-b", "ollama")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """Yield an API server without nodes."""
    with api_server(tmp_path_factory.mktemp("api") / "server") as running:
        add_namespaces(running, *_NAMESPACES)
        yield running


@pytest.fixture
def helm(server: ApiServer, tmp_path: Path) -> Iterator[Helm]:
    """Yield Helm 4; what is rendered is the same in both."""
    helm = Helm("helm4", tmp_path, server.kubeconfig)
    yield helm
    uninstall_all(helm)


# --- RBAC ------------------------------------------------------------------------------------------------------------


def rights(server: ApiServer, account: str, namespace: str) -> Rights:
    """Return all that an account (namespace:name) may do in a namespace, in the words of the rules that allow it.

    The API server tells it of whoever asks. What every client may do, asking for its own rights, is left out.
    """
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace},
    }
    path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"
    asker = f"--as=system:serviceaccount:{account}"
    status = json.loads(server.kubectl("create", "--raw", path, "--filename=-", asker, objects=review))["status"]
    found: Rights = {("incomplete", str(status.get("evaluationError"))): set()} if status["incomplete"] else {}
    for rule in status["resourceRules"]:
        for group, resource in product(rule["apiGroups"], rule["resources"]):
            if (group, resource) not in EVERYBODY:
                name = ",".join(rule.get("resourceNames", ()))
                found.setdefault((group, f"{resource}:{name}" if name else resource), set()).update(rule["verbs"])
    return found


def check_rights(server: ApiServer, account: str, namespace: str, wanted: Rights) -> None:
    """Check that an account may do exactly this; the API server goes by new rules a moment after it has stored them."""
    last = time.monotonic() + 30
    while (found := rights(server, account, namespace)) != wanted and time.monotonic() < last:
        time.sleep(0.1)
    assert found == wanted


def test_rights_in_the_cluster(helm: Helm, server: ApiServer) -> None:
    """The operator may do exactly this everywhere: it reads no Secret, makes no pod and changes no job's spec."""
    install(helm, {})
    check_rights(server, "tunesmith:tunesmith", "team-a", OPERATOR)
    check_rights(server, "tunesmith:tunesmith", "kube-system", OPERATOR)
    check_rights(server, "tunesmith:tunesmith", "tunesmith", OPERATOR | LEASE)


def test_rights_in_listed_namespaces(helm: Helm, server: ApiServer) -> None:
    """With listed namespaces the operator may do the same there, and nothing anywhere else."""
    install(helm, {"watchNamespaces": ["team-a"]})
    check_rights(server, "tunesmith:tunesmith", "team-a", OPERATOR)
    check_rights(server, "tunesmith:tunesmith", "team-b", {})
    check_rights(server, "tunesmith:tunesmith", "tunesmith", LEASE)


def test_rights_for_exec(helm: Helm, server: ApiServer) -> None:
    """The account for Exec may run something in the one pod, and nothing else; nobody else may."""
    install(helm, EXEC)
    check_rights(server, "team-a:tunesmith-exec", "ollama", {("", "pods/exec:ollama-0"): {"get", "create"}})
    check_rights(server, "team-a:tunesmith-exec", "team-a", {})
    check_rights(server, "tunesmith:tunesmith", "ollama", {})
    check_rights(server, "team-a:default", "ollama", {})


# --- the commands of Exec --------------------------------------------------------------------------------------------

LET_THROUGH = (400, "pod ollama-0 does not have a host assigned")
"""The answer to an exec that nothing refuses: there is no node that could run it."""

CREATE = ["ollama", "create", "team-a/bot:v1", "-f", "/volume/team-a/stages/x/out/Modelfile"]
ALLOWED = {
    "create": CREATE,
    "create under a throw-away name": ["ollama", "create", "tunesmith-check-0123-1:q4_k_m", *CREATE[3:]],
    "remove": ["ollama", "rm", "team-a/bot"],
}
FORBIDDEN: Mapping[str, list[str]] = {
    "a shell": ["sh", "-c", "ollama list"],
    "another program": ["/bin/ollama", *CREATE[1:]],
    "a command without a name": ["ollama", "rm"],
    "another command": ["ollama", "run", "team-a/bot"],
    "sending a model elsewhere": ["ollama", "push", "team-a/bot:v1"],
    "looking at a model": ["ollama", "show", "team-a/bot:v1"],
    "the server": ["ollama", "serve", "team-a/bot"],
    "another team's model": ["ollama", "rm", "team-b/bot"],
    "a name that only looks like the team's": ["ollama", "rm", "team-a-b/bot"],
    "an option for a name": ["ollama", "rm", "--help"],
    "a further argument": ["ollama", "rm", "team-a/bot", "team-b/bot"],
    "a further option": [*CREATE, "--experimental"],
    "another team's folder": [*CREATE[:4], "/volume/team-b/Modelfile"],
    "a folder beside it": [*CREATE[:4], "/volume/team-ab/Modelfile"],
    "a way out of the folder": [*CREATE[:4], "/volume/team-a/../team-b/Modelfile"],
    "a relative path": [*CREATE[:4], "Modelfile"],
    "another option": [*CREATE[:3], "--file", CREATE[4]],
}


class Account:
    """A client of the API server that asks for commands to be run in a pod."""

    def __init__(self, server: ApiServer, token: str | None = None) -> None:
        """`token` is a ServiceAccount's; without it, it is the administrator's client."""
        own: Any = client.Configuration()
        config.load_kube_config(str(server.kubeconfig), client_configuration=own)  # type: ignore[no-untyped-call]
        if token is not None:
            own.cert_file = own.key_file = None
            own.api_key = {"authorization": f"Bearer {token}"}
        self._core = client.CoreV1Api(client.ApiClient(own))

    def run(self, command: list[str], *, pod: str = "ollama-0", verb: str = "get", **options: Any) -> tuple[int, str]:
        """Ask for a command, and return status and words of the refusal: :data:`LET_THROUGH` or another one."""
        ask = getattr(self._core, f"connect_{verb}_namespaced_pod_exec")
        with pytest.raises(client.ApiException) as refused:
            ask(pod, "ollama", **{"command": command, "container": "ollama", "stdout": True, **options})
        return int(refused.value.status or 0), str(json.loads(refused.value.body or "{}")["message"])


@pytest.fixture(scope="module")
def account(server: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    """Yield the account of team-a for Exec, with the policy at work and the Ollama pod there."""
    helm = Helm("helm4", tmp_path_factory.mktemp("helm"), server.kubeconfig)
    install(helm, EXEC)
    wait_until("pods can be made", lambda: server.get("serviceaccounts", "-n", "ollama")["items"])
    server.kubectl("create", "--filename=-", objects=[_pod("ollama-0"), _pod("ollama-1")])
    account = Account(server, server.kubectl("create", "token", "tunesmith-exec", "--namespace=team-a").strip())
    wait_until("the policy is at work", lambda: "a NAME that begins with" in account.run(["id"])[1])
    yield account
    uninstall_all(helm)


def _pod(name: str) -> dict[str, Any]:
    security: dict[str, Any] = {"runAsNonRoot": True, "runAsUser": 1, "allowPrivilegeEscalation": False}
    security |= {"capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}}
    containers = [{"name": part, "image": "any:1", "securityContext": security} for part in ("ollama", "beside")]
    metadata = {"name": name, "namespace": "ollama"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": containers}}


@pytest.mark.parametrize("verb", ["get", "post"])
@pytest.mark.parametrize("command", ALLOWED.values(), ids=ALLOWED)
def test_exec_allowed(account: Account, command: list[str], verb: str) -> None:
    """What `rehearse` and `register` run is let through, whichever way the client asks."""
    assert account.run(command, verb=verb) == LET_THROUGH


@pytest.mark.parametrize("verb", ["get", "post"])
@pytest.mark.parametrize("command", FORBIDDEN.values(), ids=FORBIDDEN)
def test_exec_forbidden(account: Account, command: list[str], verb: str) -> None:
    """Any other command is refused, with what is allowed."""
    status, message = account.run(command, verb=verb)
    assert status == 403
    assert "a NAME that begins with `team-a/` and a FILE below `/volume/team-a/`" in message


ELSEWHERE: Mapping[str, tuple[dict[str, Any], str]] = {
    "another container": ({"container": "beside"}, "only in the container"),
    "no container": ({"container": ""}, "only in the container"),
    "input": ({"stdin": True}, "without stdin"),
    "a terminal": ({"tty": True}, "without stdin"),
    "another pod": ({"pod": "ollama-1"}, 'cannot get resource "pods/exec"'),
}


@pytest.mark.parametrize(("options", "told"), ELSEWHERE.values(), ids=ELSEWHERE)
def test_exec_elsewhere(account: Account, options: dict[str, Any], told: str) -> None:
    """An allowed command is refused in another container or pod, and with input or a terminal."""
    status, message = account.run(CREATE, **options)
    assert status == 403
    assert told in message


@pytest.mark.usefixtures("account")
def test_exec_of_others_is_not_touched(server: ApiServer) -> None:
    """The policy binds the chart's own accounts; an administrator may still run anything."""
    assert Account(server).run(["sh", "-c", "id"]) == LET_THROUGH
