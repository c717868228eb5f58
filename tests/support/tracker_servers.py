"""Small servers on loopback that speak the protocols of experiment trackers, and that can be down, slow or unwilling.

MLflow's is that of its REST API; an e2e test asks a real server the same. W&B's is what its own client asks and
understands: GraphQL for the run itself, and lines of files for what is logged.
"""

from __future__ import annotations

import base64
import gzip
import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

Answer = tuple[int, dict[str, Any]]

_UPLOAD = "/upload"
"""Where W&B's client puts files: a signed address, which needs no token."""


class TrackerServer:
    """A server that answers by :meth:`answer`, unless something is wrong with it."""

    def __init__(self, authorization: str = "") -> None:
        self.authorization = authorization
        """What the header of that name must hold; empty: anybody may come."""
        self.broken: int | str = ""
        """A status that everything is answered with; ``silent``: no answer; ``gone``: the connection is closed."""
        self.asked: list[tuple[str, dict[str, Any]]] = []
        """Path and content of everything that was asked, whatever became of it."""
        self.runs: dict[str, dict[str, Any]] = {}
        """What has arrived, by the run's id."""
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"owner": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def secure(self, context: ssl.SSLContext) -> None:
        """Speak https."""
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = self.url.replace("http:", "https:")

    def answer(self, path: str, content: dict[str, Any]) -> Answer:
        """Return status and answer."""
        raise NotImplementedError

    def respond(self, path: str, content: dict[str, Any], authorization: str) -> Answer | None:
        """Return what is answered; None: nothing."""
        with self._lock:
            self.asked.append((path, content))
            if self.broken in {"silent", "gone"}:
                return None
            if self.broken:
                return int(self.broken), {}
            if self.authorization and authorization != self.authorization and path != _UPLOAD:
                return 401, {"error_code": "UNAUTHENTICATED", "message": "who are you?"}
            return self.answer(path, content)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Serve."""
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        try:
            yield
        finally:
            self._server.shutdown()
            self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: TrackerServer

    def do_POST(self) -> None:
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        is_json = "json" in self.headers.get("Content-Type", "")
        content = {**dict(parse_qsl(parts.query)), **(json.loads(body) if is_json and body else {})}
        answered = self.owner.respond(parts.path, content, self.headers.get("Authorization", ""))
        if answered is None:
            while self.owner.broken == "silent":
                time.sleep(0.05)
            self.close_connection = True
            return
        answer = json.dumps(answered[1]).encode()
        self.send_response(answered[0])
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_PUT = do_POST  # noqa: N815 - the names of http.server

    def log_message(self, *_: object) -> None:
        pass


class MlflowServer(TrackerServer):
    """MLflow's tracking server, as far as experiments, runs, parameters and metrics go."""

    def __init__(self, authorization: str = "") -> None:
        super().__init__(authorization)
        self.experiments: dict[str, str] = {}

    def answer(self, path: str, content: dict[str, Any]) -> Answer:
        what = path.removeprefix("/api/2.0/mlflow/")
        match what:
            case "experiments/get-by-name":
                found = self.experiments.get(content["experiment_name"])
                return (200, {"experiment": {"experiment_id": found}}) if found else _missing()
            case "experiments/create":
                self.experiments[content["name"]] = str(len(self.experiments) + 1)
                return 200, {"experiment_id": self.experiments[content["name"]]}
            case "runs/create":
                id_ = f"run{len(self.runs) + 1}"
                info = {"run_id": id_, "lifecycle_stage": "active", "status": "RUNNING", **content}
                self.runs[id_] = {"info": info, "params": {}, "history": []}
                return 200, {"run": self._shown(id_)}
            case _ if content.get("run_id") not in self.runs:
                return _missing()
            case "runs/get":
                return 200, {"run": self._shown(content["run_id"])}
            case "runs/update":
                self.runs[content["run_id"]]["info"] |= content
                return 200, {}
            case "runs/log-batch":
                run = self.runs[content["run_id"]]
                run["params"] |= {item["key"]: item["value"] for item in content.get("params", ())}
                run["history"] += [(item["key"], item["step"], item["value"]) for item in content.get("metrics", ())]
                return 200, {}
        return 404, {"error_code": "ENDPOINT_NOT_FOUND", "message": what}

    def _shown(self, id_: str) -> dict[str, Any]:
        run = self.runs[id_]
        latest = {key: {"key": key, "step": step, "value": value} for key, step, value in run["history"]}
        return {"info": run["info"], "data": {"metrics": list(latest.values())}}


def _missing() -> Answer:
    return 404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "it is not there"}


class WandbServer(TrackerServer):
    """A W&B server, as far as a run's settings and the lines of its history go."""

    def __init__(self, token: str) -> None:
        super().__init__(f"Basic {base64.b64encode(f'api:{token}'.encode()).decode()}")

    def answer(self, path: str, content: dict[str, Any]) -> Answer:
        if path == "/graphql":
            return 200, {"data": self._query(content.get("query", ""), content.get("variables") or {})}
        if path.endswith("/file_stream"):
            self._take_lines(self.runs[path.split("/")[-2]], content)
            return 200, {}
        return (200, {}) if path == _UPLOAD else (404, {})

    def history(self, id_: str) -> list[dict[str, Any]]:
        """Return the rows that a run has logged."""
        return [json.loads(line) for _, line in sorted(self.runs[id_]["lines"].items())]

    def _take_lines(self, run: dict[str, Any], content: dict[str, Any]) -> None:
        history = content.get("files", {}).get("wandb-history.jsonl", {"offset": 0, "content": []})
        run["lines"] |= dict(enumerate(history["content"], start=history["offset"]))
        if "exitcode" in content:
            run["exit"] = content["exitcode"]

    def _query(self, query: str, given: dict[str, Any]) -> dict[str, Any]:
        if "viewer" in query:
            return {"viewer": {"id": "1", "entity": "team", "username": "somebody"}}
        if "RunResumeStatus" in query:
            place = {"id": "1", "name": given["project"], "entity": {"id": "1", "name": given["entity"]}}
            return {"model": {**place, "bucket": self._resumed(given["name"])}}
        if "UpsertBucket" in query:
            run = self.runs.setdefault(given["name"], {"lines": {}, "config": "{}", "exit": None, "name": ""})
            run["config"] = given.get("config") or run["config"]
            run["name"] = given.get("displayName") or run["name"]
            project = {"id": "1", "name": given["project"], "entity": {"id": "1", "name": given["entity"]}}
            bucket = {"id": given["name"], "name": given["name"], "displayName": run["name"], "project": project}
            return {"upsertBucket": {"bucket": {**bucket, "historyLineCount": len(run["lines"])}, "inserted": True}}
        if "CreateRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.url}{_UPLOAD}"} for name in given["files"]]
            return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}
        return {}

    def _resumed(self, name: str) -> dict[str, Any] | None:
        run = self.runs.get(name)
        if run is None:
            return None
        lines = [line for _, line in sorted(run["lines"].items())]
        return {
            "id": name,
            "name": name,
            "displayName": run["name"],
            "summaryMetrics": lines[-1] if lines else "{}",
            "logLineCount": 0,
            "historyLineCount": len(lines),
            "eventsLineCount": 0,
            "historyTail": json.dumps(lines[-1:]),
            "eventsTail": "[]",
            "config": run["config"],
            "tags": [],
            "notes": None,
            "wandbConfig": '{"t": 1}',  # without it the run counts as not begun
        }
