"""ModelScope, or a mirror of it, by its own client.

Facts about the protocol that shape this module:

- A revision that is not there gives HTTP 200 with no files and no committer.
- A list of files tells the newest commit by its first digits alone (``LatestCommitter.ShortId``, mostly with an empty
  ``Id``); the whole hash is that of a file or folder that this commit touched (``Revision``).
- Every file has a sha256 (``Sha256``), whether Git LFS has it or not.

The mirror is the administrator's (MODELSCOPE_ENDPOINT): a job cannot have its token sent to an address of its choice.
The client sends the token as a cookie as well, which a redirect would take along to other ports, to plain HTTP and to
hosts below the hub's name.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tunesmith_stages.fetch.hub import (
    Hub,
    HubFile,
    denied,
    is_commit,
    no_repository,
    no_revision,
    not_pinned,
    not_understood,
    require_safe_names,
    unavailable,
)
from tunesmith_stages.program import StageError

TOKEN = "MODELSCOPE_API_TOKEN"  # noqa: S105 - the name of a variable
_SETTINGS = {"MODELSCOPE_API_MAX_RETRIES": "1", "MODELSCOPE_REPO_TREE_PAGE_MAX_ATTEMPTS": "1"}
"""What fails is tried again by the same rules as with any other hub."""
_REPO = re.compile(r"[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")


class ModelScope(Hub):
    """One repository of the hub.

    Args:
        kind: ``models`` or ``datasets``.
        repo: ``OWNER/NAME``.
        token: empty if there is none.
    """

    def __init__(self, kind: str, repo: str, token: str) -> None:
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)
        from modelscope_hub import HubApi

        self._repo = repo
        self.called = f"the {kind[:-1]} {repo!r} of ModelScope"
        self.way_in = "name the Secret with the token in `modelScope.tokenSecretRef` (here: MODELSCOPE_API_TOKEN)"
        if not _REPO.fullmatch(repo):
            raise no_repository(self)
        self._kind = kind
        self._token = token
        endpoint = os.environ.get("MODELSCOPE_ENDPOINT", "").rstrip("/") or None
        self._client = HubApi(endpoint=endpoint, token=token).legacy
        for session in (self._client._session, self._client._read_session):  # noqa: SLF001
            session.rebuild_auth = functools.partial(_keep_token_at_home, session)  # type: ignore[method-assign]

    def commit(self, revision: str) -> str:
        """See :class:`Hub`."""
        if is_commit(revision):
            return revision
        with self._explained():
            newest = self._listing(revision).get("LatestCommitter")
            if not newest:
                raise no_revision(self, revision)
            known = str(newest.get("Id") or newest.get("ShortId") or "")
            if is_commit(known):
                return known
            entries = self._client.list_repo_files(self._repo, self._kind[:-1], revision)
            commits = {str(entry.get("Revision", "")) for entry in entries}
        found = [commit for commit in commits if known and is_commit(commit) and commit.startswith(known)]
        if len(found) != 1:
            raise not_pinned(self, revision, known)
        return found[0]

    def files(self, commit: str) -> list[HubFile]:
        """See :class:`Hub`."""
        with self._explained():
            entries = self._client.list_repo_files(self._repo, self._kind[:-1], commit)
            found = [self._file(entry) for entry in entries if entry.get("Type") != "tree"]
            if not found and not self._listing(commit).get("LatestCommitter"):
                raise no_revision(self, commit)
        require_safe_names(self, found)
        return found

    def _file(self, entry: Mapping[str, Any]) -> HubFile:
        sha256 = str(entry.get("Sha256") or "").lower()
        if not _SHA256.fullmatch(sha256):
            raise ValueError(f"the file {entry['Path']!r} has no sha256")
        return HubFile(str(entry["Path"]), int(entry["Size"]), sha256)

    def request(self, commit: str, path: str) -> tuple[str, Mapping[str, str]]:
        """See :class:`Hub`."""
        url = self._client.get_download_url(self._repo, self._kind[:-1], path, commit)
        headers = {"User-Agent": "tunesmith"}
        if self._token:
            # Older parts of the hub know a token as a cookie; the client itself sends both.
            headers |= {"Authorization": f"Bearer {self._token}", "Cookie": f"m_session_id={self._token}"}
        return url, headers

    def _listing(self, revision: str) -> Mapping[str, Any]:
        """Return the hub's answer to what lies at the top of a revision; the client keeps but the files of it."""
        name = "files" if self._kind == "models" else "tree"
        path = f"{self._kind}/{self._repo}/repo/{name}"
        asked = {"Revision": revision, "Recursive": "False", "PageNumber": 1, "PageSize": 1}
        answer = self._client._request("GET", path, params=asked).json()  # noqa: SLF001
        data = answer["Data"]
        if not isinstance(data, Mapping):
            raise ValueError(f"a list of files is a {type(data).__name__}")
        return data

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what the client raises into words for the person who wrote the job."""
        from modelscope_hub.errors import HubError, NetworkError, RateLimitError, ServerError
        from requests.exceptions import TooManyRedirects

        try:
            yield
        except (NetworkError, ServerError, RateLimitError, TooManyRedirects) as error:
            status = getattr(error, "status_code", None)
            raise unavailable(self, f"HTTP {status}" if status else str(error)[:300]) from error
        except HubError as error:
            raise self._refused(getattr(error, "status_code", None) or 0) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise not_understood(self, f"{type(error).__name__}: {error}") from error

    def _refused(self, status: int) -> StageError:
        if status in (401, 403):
            return denied(self, status, with_token=bool(self._token))
        return no_repository(self) if status == 404 else not_understood(self, f"HTTP {status}")


def _keep_token_at_home(session: Any, request: Any, response: Any) -> None:
    """Take the token off a request that follows a redirect to another host, scheme or port."""
    if session.should_strip_auth(response.request.url, request.url):
        for name in ("Authorization", "Cookie"):
            request.headers.pop(name, None)
