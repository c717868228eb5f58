"""What the chart's accounts may do, asked of a real API server: everything that is listed here and nothing else."""

from __future__ import annotations

import http.client
import json
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
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
    ("tunesmith.dev", "finetunejobs"): {"get", "list", "watch", "patch"},
    ("tunesmith.dev", "finetunejobs/status"): {"update"},
    ("tunesmith.dev", "finetunejobs/finalizers"): {"update"},
    ("batch", "jobs"): {"get", "list", "watch", "create", "delete"},
    ("", "pods"): {"get", "list", "watch"},
    ("", "pods/log"): {"get"},
    ("", "configmaps"): {"create", "delete"},
    ("", "services"): {"create", "delete"},
    ("", "events"): {"create", "list"},
    ("kueue.x-k8s.io", "workloads"): {"list"},
    ("visibility.kueue.x-k8s.io", "localqueues/pendingworkloads"): {"get"},
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
    """The operator may do exactly this everywhere: it reads no Secret and makes no pod.

    It may patch FineTuneJobs, for its finalizer: RBAC cannot keep their specs from that.
    """
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


def test_rights_for_clean_ups(helm: Helm, server: ApiServer) -> None:
    """The account of clean-ups may list the FineTuneJobs of its namespace, and nothing else."""
    install(helm, {"gc": {"volumes": [{"namespace": "team-a"}]}})
    check_rights(server, "team-a:tunesmith-gc", "team-a", {("tunesmith.dev", "finetunejobs"): {"list"}})
    check_rights(server, "team-a:tunesmith-gc", "team-b", {})
    check_rights(server, "team-a:tunesmith-gc", "tunesmith", {})


# --- everything that there is ----------------------------------------------------------------------------------------

VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
FURTHER = (
    ("tunesmith.dev", "finetunejobs/finalizers", "update"),
    ("", "users", "impersonate"),
    ("", "groups", "impersonate"),
    ("", "serviceaccounts", "impersonate"),
    ("rbac.authorization.k8s.io", "roles", "escalate"),
    ("rbac.authorization.k8s.io", "roles", "bind"),
    ("rbac.authorization.k8s.io", "clusterroles", "escalate"),
    ("rbac.authorization.k8s.io", "clusterroles", "bind"),
    ("certificates.k8s.io", "signers", "approve"),
    ("certificates.k8s.io", "signers", "sign"),
    ("", "nodes", "proxy"),
    ("policy", "podsecuritypolicies", "use"),
    ("*", "*", "*"),
)
"""What no discovery tells of."""

Right = tuple[str, str, str]
"""Group, resource and verb."""


def asked_for(rights: Rights) -> set[Right]:
    """Return the rights on objects in general; those on one object by its name, and on Kueue's, are left out."""
    return {
        (group, kind, verb)
        for (group, kind), verbs in rights.items()
        if ":" not in kind and not group.endswith("kueue.x-k8s.io")  # which is not installed here
        for verb in verbs
    }


class Reviews:
    """Asks the API server what somebody may do with everything that it serves: some thousand questions, fast."""

    def __init__(self, server: ApiServer) -> None:
        self._plane = server.plane
        self._all = sorted({*_served(server), *FURTHER})

    def allowed(self, account: str, namespace: str, name: str = "any") -> set[Right]:
        """Return all that a ServiceAccount (namespace:name) may do with objects of a namespace; "": of the cluster."""
        authority = self._plane.authority
        tls = ssl.create_default_context(cafile=authority.certificate)
        tls.load_cert_chain(authority.certificate_of("admin"), authority.key_of("admin"))
        connection = http.client.HTTPSConnection(self._plane.address, self._plane.api_port, timeout=60, context=tls)
        try:
            found = {right for right in self._all if _may(connection, account, namespace, name, right)}
        finally:
            connection.close()
        return {right for right in found if right[:2] not in EVERYBODY}


def _may(connection: http.client.HTTPSConnection, account: str, namespace: str, name: str, right: Right) -> bool:
    group, kind, verb = right
    kind, _, part = kind.partition("/")
    home = account.partition(":")[0]
    asked = {"group": group, "resource": kind, "subresource": part, "verb": verb, "name": name, "namespace": namespace}
    spec = {
        "user": f"system:serviceaccount:{account}",
        "groups": ["system:serviceaccounts", f"system:serviceaccounts:{home}", "system:authenticated"],
        "resourceAttributes": asked,
    }
    path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
    connection.request("POST", path, json.dumps({"spec": spec}), {"Content-Type": "application/json"})
    answer = json.loads(connection.getresponse().read())
    return bool(answer["status"]["allowed"])


def _served(server: ApiServer) -> Iterator[Right]:
    """Yield every verb on every resource and part of a resource that the API server tells of."""
    groups = json.loads(server.kubectl("get", "--raw", "/apis"))["groups"]
    versions = [item["groupVersion"] for group in groups for item in group["versions"]]
    for path in ("/api/v1", *(f"/apis/{version}" for version in versions)):
        group = "" if path == "/api/v1" else path.split("/")[2]
        for resource in json.loads(server.kubectl("get", "--raw", path))["resources"]:
            for verb in VERBS:
                yield group, resource["name"], verb


def test_no_other_verb_on_anything(helm: Helm, server: ApiServer) -> None:
    """Of all verbs on all resources that the API server serves, each account has those that are listed here alone.

    The operator reads no Secret and no ConfigMap, makes no Pod, runs and attaches to nothing, and takes nobody's place.
    The account for Exec has two verbs on one pod.
    """
    install(helm, {**EXEC, "gc": {"volumes": [{"namespace": "team-a"}]}})
    operator, runner = "tunesmith:tunesmith", "team-a:tunesmith-exec"
    check_rights(server, operator, "team-a", OPERATOR)
    wait_until("FineTuneJobs are served", lambda: server.serves("finetunejobs.tunesmith.dev"))
    reviews = Reviews(server)
    found = {
        "the operator for a team": reviews.allowed(operator, "team-a"),
        "the operator in the cluster": reviews.allowed(operator, ""),
        "Exec in Ollama's pod": reviews.allowed(runner, "ollama", "ollama-0"),
        "Exec in another pod": reviews.allowed(runner, "ollama", "ollama-1"),
        "what cleans volumes up": reviews.allowed("team-a:tunesmith-gc", "team-a"),
        "a stage": reviews.allowed("team-a:default", "team-a"),
    }
    assert found == {
        "the operator for a team": asked_for(OPERATOR),
        "the operator in the cluster": set(),
        "Exec in Ollama's pod": {("", "pods/exec", "get"), ("", "pods/exec", "create")},
        "Exec in another pod": set(),
        "what cleans volumes up": {("tunesmith.dev", "finetunejobs", "list")},
        "a stage": set(),
    }


def test_users_gain_what_their_role_says(helm: Helm, server: ApiServer) -> None:
    """`view` sees FineTuneJobs, `edit` writes them, and neither writes a status: there stands what image is run."""
    install(helm, {})
    jobs, status = ("tunesmith.dev", "finetunejobs"), ("tunesmith.dev", "finetunejobs/status")
    reading = {"get", "list", "watch"}
    wanted = {"view": reading, "edit": {*VERBS}, "admin": {*VERBS}}
    for role, verbs in wanted.items():
        account = f"team-a:{role}s"
        server.kubectl(
            "create", "rolebinding", role, f"--clusterrole={role}", f"--serviceaccount={account}", "--namespace=team-a"
        )
        try:
            wait_until(f"{role} has its rights", partial(_sees, server, account, jobs), seconds=30)
            found = rights(server, account, "team-a")
            assert found[jobs] == verbs
            assert status not in found
        finally:
            server.kubectl("delete", "rolebinding", role, "--namespace=team-a")


def _sees(server: ApiServer, account: str, kind: tuple[str, str]) -> bool:
    return kind in rights(server, account, "team-a")


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
    "a way out of the names": ["ollama", "rm", "team-a/../team-b"],
    "a name of two lines": ["ollama", "rm", "team-a/bot\nteam-b/bot"],
    "a program in the name": ["ollama", "rm", "team-a/$(id)"],
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
        self.core = client.CoreV1Api(client.ApiClient(own))

    def run(self, command: list[str], *, pod: str = "ollama-0", verb: str = "get", **options: Any) -> tuple[int, str]:
        """Ask for a command, and return status and words of the refusal: :data:`LET_THROUGH` or another one."""
        ask = getattr(self.core, f"connect_{verb}_namespaced_pod_exec")
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
    assert "a NAME that begins with `team-a/` or `tunesmith-check-` and a FILE below `/volume/team-a/`" in message


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


def test_only_commands(account: Account) -> None:
    """In the very pod in which it may run commands, the account may do nothing else, nor read the team's Secrets."""
    core: Any = account.core
    asked: Mapping[str, Callable[[], object]] = {
        "attach": lambda: core.connect_get_namespaced_pod_attach("ollama-0", "ollama", container="ollama"),
        "attach by POST": lambda: core.connect_post_namespaced_pod_attach("ollama-0", "ollama", container="ollama"),
        "forward a port": lambda: core.connect_get_namespaced_pod_portforward("ollama-0", "ollama", ports="11434"),
        "the proxy": lambda: core.connect_get_namespaced_pod_proxy("ollama-0", "ollama"),
        "put a container into it": lambda: core.patch_namespaced_pod_ephemeralcontainers("ollama-0", "ollama", {}),
        "read its log": lambda: core.read_namespaced_pod_log("ollama-0", "ollama"),
        "see it": lambda: core.read_namespaced_pod("ollama-0", "ollama"),
        "end it": lambda: core.delete_namespaced_pod("ollama-0", "ollama"),
        "evict it": lambda: core.create_namespaced_pod_eviction(
            "ollama-0", "ollama", {"metadata": {"name": "ollama-0"}}
        ),
        "read a Secret": lambda: core.read_namespaced_secret("tunesmith-hf", "team-a"),
        "list Secrets": lambda: core.list_namespaced_secret("team-a"),
        "make a pod": lambda: core.create_namespaced_pod("team-a", _pod("own")),
        "get another's token": lambda: core.create_namespaced_service_account_token("default", "team-a", {"spec": {}}),
    }
    statuses = {}
    for what, ask in asked.items():
        with pytest.raises(client.ApiException) as refused:
            ask()
        statuses[what] = refused.value.status
    assert statuses == dict.fromkeys(asked, 403)
