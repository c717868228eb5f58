"""The Hugging Face Hub, or a mirror of it, by its own client.

The mirror is the administrator's (HF_ENDPOINT): a job cannot have its token sent to an address of its choice. The
client would send a token along to whatever a page of a list or a redirect leads to; a hook on its connections takes it
off there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from tunesmith_stages.fetch.hub import (
    Hub,
    HubFile,
    denied,
    is_commit,
    no_repository,
    no_revision,
    not_understood,
    require_safe_names,
    unavailable,
)
from tunesmith_stages.fetch.transfer import CONNECT_SECONDS, STALL_SECONDS, trusted

TOKEN = "HF_TOKEN"  # noqa: S105 - the name of a variable
_SETTINGS = {
    "HF_HUB_DISABLE_XET": "1",  # another protocol with other hosts, which mirrors and proxies seldom know
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
}


class HuggingFace(Hub):
    """One repository of the hub.

    Args:
        kind: ``models`` or ``datasets``.
        repo: ``OWNER/NAME``.
        token: empty if there is none.
    """

    def __init__(self, kind: str, repo: str, token: str) -> None:
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)
        from huggingface_hub import HfApi, set_client_factory

        self.called = f"the {kind[:-1]} {repo!r} of the Hugging Face Hub"
        self.way_in = "name the Secret with the token in `huggingFace.tokenSecretRef` (here: HF_TOKEN)"
        self._kind = kind[:-1]
        self._repo = repo
        self._token = token
        endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or None
        self._api = HfApi(endpoint=endpoint, token=token or False, library_name="tunesmith")
        set_client_factory(lambda: _client(self._api.endpoint))

    def commit(self, revision: str) -> str:
        """See :class:`Hub`."""
        if is_commit(revision):
            return revision
        with self._explained(revision):
            info = self._api.repo_info(self._repo, repo_type=self._kind, revision=revision, timeout=STALL_SECONDS)
        if not is_commit(info.sha or ""):
            raise not_understood(self, f"{revision!r} is the commit {info.sha!r}")
        return str(info.sha)

    def files(self, commit: str) -> list[HubFile]:
        """See :class:`Hub`."""
        from huggingface_hub.hf_api import RepoFile

        with self._explained(commit):
            tree = list(self._api.list_repo_tree(self._repo, recursive=True, revision=commit, repo_type=self._kind))
            found = [
                HubFile(entry.path, entry.size, entry.lfs.sha256 if entry.lfs else "", entry.blob_id)
                for entry in tree
                if isinstance(entry, RepoFile)
            ]
        require_safe_names(self, found)
        return found

    def request(self, commit: str, path: str) -> tuple[str, Mapping[str, str]]:
        """See :class:`Hub`."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        url = hf_hub_url(self._repo, path, repo_type=self._kind, revision=commit, endpoint=self._api.endpoint)
        return url, build_hf_headers(token=self._token or False, library_name="tunesmith")

    @contextmanager
    def _explained(self, revision: str) -> Iterator[None]:
        """Turn what the client raises into words for the person who wrote the job."""
        import httpx2
        from huggingface_hub.errors import (
            GatedRepoError,
            HfHubHTTPError,
            HFValidationError,
            OfflineModeIsEnabled,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        try:
            yield
        except OfflineModeIsEnabled as error:
            raise unavailable(self, "HF_HUB_OFFLINE forbids it") from error
        except RevisionNotFoundError as error:
            raise no_revision(self, revision) from error
        except GatedRepoError as error:
            raise denied(self, error.response.status_code, with_token=bool(self._token)) from error
        except RepositoryNotFoundError as error:
            if error.response.status_code == httpx2.codes.UNAUTHORIZED:
                raise denied(self, error.response.status_code, with_token=bool(self._token)) from error
            raise no_repository(self) from error
        except HfHubHTTPError as error:
            raise self._refused(error.response.status_code) from error
        except httpx2.RequestError as error:
            raise unavailable(self, str(error) or type(error).__name__) from error
        except HFValidationError as error:
            raise no_repository(self) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise not_understood(self, f"{type(error).__name__}: {error}") from error

    def _refused(self, status: int) -> Exception:
        if status in (401, 403):
            return denied(self, status, with_token=bool(self._token))
        if status == 404:
            return no_repository(self)
        return (
            unavailable(self, f"HTTP {status}")
            if status in (408, 429) or status >= 500
            else not_understood(self, f"HTTP {status}")
        )


def _client(endpoint: str) -> Any:
    """Return a connection pool of the client that keeps a token from other hosts and waits for nobody for ever."""
    import httpx2
    from huggingface_hub.constants import is_offline_mode
    from huggingface_hub.errors import OfflineModeIsEnabled

    home = _origin(endpoint)

    def keep_token_at_home(request: httpx2.Request) -> None:
        if is_offline_mode():
            raise OfflineModeIsEnabled
        if _origin(str(request.url)) != home:
            request.headers.pop("Authorization", None)

    timeout = httpx2.Timeout(STALL_SECONDS, connect=CONNECT_SECONDS)
    hooks = {"request": [keep_token_at_home]}
    return httpx2.Client(follow_redirects=True, timeout=timeout, verify=trusted(), event_hooks=hooks)


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
