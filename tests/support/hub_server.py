"""A small server that speaks the Hugging Face Hub's protocol, as far as models and datasets are read.

Source of the protocol: what the hub's own client asks and understands (revisions, trees with pages, resolved files).
"""

from __future__ import annotations

import hashlib

from support.file_server import FileServer, Reply, Repository, Request

_PAGE = 3


class Elsewhere(FileServer):
    """Where a hub keeps what Git LFS has: another host, to which the hub redirects."""

    def __init__(self) -> None:
        super().__init__("localhost")  # another host than 127.0.0.1
        self.contents: dict[str, bytes] = {}

    def answer(self, request: Request, reply: Reply) -> None:
        """Hand out content by its hash."""
        name = request.path.removeprefix("/")
        reply.file(self.contents[name], request, self.next_fault(name))


class HubServer(FileServer):
    """A hub with models and datasets: ``models/OWNER/NAME`` and ``datasets/OWNER/NAME``."""

    def __init__(
        self,
        repositories: dict[str, Repository] | None = None,
        storage: Elsewhere | None = None,
        address: tuple[str, int] = ("127.0.0.1", 0),
    ) -> None:
        super().__init__(address=address)
        self.repositories = repositories or {}
        self.storage = storage
        """Where Git LFS has its files; None: with the hub."""

    def answer(self, request: Request, reply: Reply) -> None:
        """Answer by the path: ``/api/...`` for what there is, ``/.../resolve/...`` for a file."""
        parts = request.path.strip("/").split("/")
        if parts[0] == "api":
            self._tell(request, reply, "/".join(parts[1:4]), parts[4], "/".join(parts[5:]))
        else:
            kind = ["models"] if parts[0] != "datasets" else []
            owner, name, _, revision, *path = parts[1 - len(kind) :]
            self._hand_out(request, reply, "/".join([*(kind or ["datasets"]), owner, name]), revision, "/".join(path))

    def _tell(self, request: Request, reply: Reply, called: str, what: str, revision: str) -> None:
        repository = self.repositories.get(called)
        if repository is None:
            reply.status(401 if "authorization" not in request.headers else 404, X_Error_Code="RepoNotFound")
            return
        commit = repository.resolve(revision)
        if commit is None:
            reply.status(404, X_Error_Code="RevisionNotFound")
        elif what == "revision":
            reply.data({"id": called.partition("/")[2], "sha": commit, "siblings": []})
        else:
            self._list(request, reply, repository, commit)

    def _list(self, request: Request, reply: Reply, repository: Repository, commit: str) -> None:
        entries = [self._entry(repository, path, data) for path, data in sorted(repository.commits[commit].items())]
        first = int(request.query.get("cursor", "0"))
        more = first + _PAGE < len(entries)
        link = {"Link": f'<{self.url}{request.path}?recursive=True&cursor={first + _PAGE}>; rel="next"'}
        reply.data(entries[first : first + _PAGE], **(link if more else {}))

    @staticmethod
    def _entry(repository: Repository, path: str, data: bytes) -> dict[str, object]:
        blob = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
        entry: dict[str, object] = {"type": "file", "path": path, "size": len(data), "oid": blob}
        if repository.is_lfs(path):
            oid = hashlib.sha256(data).hexdigest()
            entry |= {"oid": "0" * 40, "lfs": {"oid": oid, "size": len(data), "pointerSize": 134}}
        return entry

    def _hand_out(self, request: Request, reply: Reply, called: str, revision: str, path: str) -> None:
        repository = self.repositories[called]
        if repository.token and request.headers.get("authorization") != f"Bearer {repository.token}":
            code = 403 if "authorization" in request.headers else 401
            reply.status(code, X_Error_Code="GatedRepo")
            return
        content = repository.commits[str(repository.resolve(revision))][path]
        if self.storage is not None and repository.is_lfs(path):
            name = hashlib.sha256(content).hexdigest()
            self.storage.contents[name] = content
            reply.status(302, Location=f"{self.storage.url}/{name}")
        else:
            reply.file(content, request, self.next_fault(path))
