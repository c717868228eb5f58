"""A node without a kubelet: a test says itself what becomes of pods, and what their programs write.

The API server asks this process for logs, as it would ask the node's kubelet.
"""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote, urlsplit

from support.chart import wait_until
from support.cluster import ApiServer
from support.fake_cluster import Clock, FakeCluster, Programs
from tunesmith.api import keys
from tunesmith.core.manifests.child import STAGE_CONTAINER
from tunesmith.core.times import to_text
from tunesmith_stages.contract import Failure, Report, StageConfig

# isort: split
import control_plane  # hack/testcluster, on the path since support.cluster

_NAME = "played"


@dataclass
class PlayedNode:
    """A node on which pods run as they are told to."""

    server: ApiServer
    logs: dict[tuple[str, str], str] = field(default_factory=dict)
    """What programs have written, by namespace and pod."""
    _programs: Programs = field(default_factory=lambda: Programs(FakeCluster(Clock())))

    def pod_of(self, namespace: str, job: str, stage: str) -> dict[str, Any]:
        """Return the pod of a stage of a FineTuneJob, once it is there."""
        labels = quote(f"{keys.JOB_LABEL}={job},{keys.STAGE_LABEL}={stage}")

        def there() -> Any:
            found = control_plane.ask(self.server.plane, f"/api/v1/namespaces/{namespace}/pods?labelSelector={labels}")
            return (found or {}).get("items")

        wait_until(f"a pod of {stage} of {namespace}/{job}", there)
        (pod,) = there()
        found: dict[str, Any] = pod
        return found

    def end(self, pod: dict[str, Any], failure: Failure | None = None) -> None:
        """Have the program of a pod make what its stage.json asks for, or fail."""
        name = pod["metadata"]["labels"]["batch.kubernetes.io/job-name"]
        held = self.server.get("configmap", name, "--namespace", pod["metadata"]["namespace"])
        config = StageConfig.from_json(held["data"]["stage.json"])
        made = () if failure else tuple(self._programs._report(config, make=True))
        report = Report(units=made, failure=failure)
        ended = {"exitCode": int(failure.code) if failure else 0, "message": report.to_json()}
        times = dict.fromkeys(("startedAt", "finishedAt"), to_text(datetime.now(UTC)))
        self._tell(pod, "Failed" if failure else "Succeeded", {"terminated": {**ended, **times}})

    def run(self, pod: dict[str, Any], log: str) -> None:
        """Have the program of a pod run on this node, and have written `log`."""
        meta = pod["metadata"]
        self.logs[meta["namespace"], meta["name"]] = log
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": meta["name"], "namespace": meta["namespace"]},
            "target": {"apiVersion": "v1", "kind": "Node", "name": _NAME},
        }
        place = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/binding"
        self.server.kubectl("create", "--raw", place, "--filename=-", objects=binding)
        self._tell(pod, "Running", {"running": {"startedAt": to_text(datetime.now(UTC))}})

    def _tell(self, pod: dict[str, Any], phase: str, state: dict[str, Any]) -> None:
        image = {"image": "played", "imageID": "played"}
        container = {"name": STAGE_CONTAINER, **image, "ready": False, "restartCount": 0, "state": state}
        status = {"phase": phase, "containerStatuses": [container]}
        self.patch_status(pod, status)

    def patch_status(self, pod: dict[str, Any], status: dict[str, Any]) -> None:
        """Change the status of a pod, as its kubelet does."""
        at = ["pod", pod["metadata"]["name"], "--namespace", pod["metadata"]["namespace"]]
        patch = f"--patch={json.dumps({'status': status})}"
        self.server.kubectl("patch", *at, "--subresource=status", "--type=merge", patch)


@contextmanager
def played_node(server: ApiServer) -> Iterator[PlayedNode]:
    """Add the node to a cluster and answer for it until the block ends."""
    node = PlayedNode(server)

    class Kubelet(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path).path.strip("/").split("/")  # containerLogs/<namespace>/<pod>/<container>
            text = node.logs.get((parts[1], parts[2])) if parts[0] == "containerLogs" else None
            self.send_response(404 if text is None else 200)
            self.end_headers()
            self.wfile.write((text or "").encode())

        def log_message(self, *_: object) -> None:
            pass

    authority = server.plane.authority
    authority.sign("kubelet", f"/O=system:nodes/CN=system:node:{_NAME}", ["IP:127.0.0.1"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.certificate_of("kubelet"), authority.key_of("kubelet"))
    kubelet = ThreadingHTTPServer(("127.0.0.1", 0), Kubelet)
    kubelet.socket = context.wrap_socket(kubelet.socket, server_side=True)
    threading.Thread(target=kubelet.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    status = {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": kubelet.server_port}},
    }
    try:
        item = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": _NAME}, "status": status}
        server.kubectl("create", "--filename=-", objects=item)
        yield node
    finally:
        kubelet.shutdown()
        kubelet.server_close()
