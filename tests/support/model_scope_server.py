"""A small server that speaks ModelScope's protocol, as far as models and datasets are read.

Source of the protocol: what the hub's own client asks and understands, and answers of the hub that others have kept.
"""

from __future__ import annotations

import hashlib
from typing import Any

from support.file_server import FileServer, Reply, Repository, Request


class ModelScopeServer(FileServer):
    """A hub with models and datasets: ``models/OWNER/NAME`` and ``datasets/OWNER/NAME``."""

    def __init__(self, repositories: dict[str, Repository] | None = None, storage: FileServer | None = None) -> None:
        super().__init__()
        self.repositories = repositories or {}
        self.storage = storage
        """Another host to which files are redirected; None: no other."""
        self.touched: dict[str, str] = {}
        """By a file's path, the commit that changed it last, if that is not the newest."""

    def answer(self, request: Request, reply: Reply) -> None:
        """Answer ``/api/v1/KIND/OWNER/NAME/repo`` (a file), ``.../repo/files`` and ``.../repo/tree`` (lists)."""
        _, _, kind, owner, name, *rest = request.path.strip("/").split("/")
        repository = self.repositories.get(f"{kind}/{owner}/{name}")
        if repository is None:
            reply.body(b'{"Code": 404, "Message": "not found", "Success": false}', 404)
        elif repository.token and request.headers.get("authorization") != f"Bearer {repository.token}":
            reply.body(b'{"Code": 403, "Message": "access denied", "Success": false}', 403)
        elif rest == ["repo"]:
            self._hand_out(request, reply, repository)
        else:
            self._list(request, reply, repository)

    def _list(self, request: Request, reply: Reply, repository: Repository) -> None:
        commit = repository.resolve(request.query["Revision"])
        if commit is None:  # the hub does not say so with a status
            reply.data({"Code": 200, "Data": {"Files": None, "LatestCommitter": None}, "Success": True})
            return
        files = [self._entry(path, data, commit) for path, data in sorted(repository.commits[commit].items())]
        if request.query.get("Recursive") == "False":
            files = [file for file in files if "/" not in file["Path"]]
        if request.path.endswith("/tree"):
            size = int(request.query.get("PageSize", "100"))
            first = (int(request.query.get("PageNumber", "1")) - 1) * size
            files = files[first : first + size]
        newest = {"Id": "", "ShortId": commit[:8]}
        reply.data({"Code": 200, "Data": {"Files": files, "LatestCommitter": newest}, "Success": True})

    def _entry(self, path: str, data: bytes, commit: str) -> dict[str, Any]:
        return {
            "Path": path,
            "Name": path.rpartition("/")[2],
            "Type": "blob",
            "Size": len(data),
            "Sha256": hashlib.sha256(data).hexdigest(),
            "Revision": self.touched.get(path, commit),
        }

    def _hand_out(self, request: Request, reply: Reply, repository: Repository) -> None:
        path = request.query["FilePath"]
        content = repository.commits[str(repository.resolve(request.query["Revision"]))][path]
        if self.storage is not None:
            name = hashlib.sha256(content).hexdigest()
            self.storage.contents[name] = content  # type: ignore[attr-defined]
            reply.status(302, Location=f"{self.storage.url}/{name}")
        else:
            reply.file(content, request, self.next_fault(path))
