"""What the local edge asks the Ollama server itself: its address, and whether it still has what was registered."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping

from tunesmith_stages.contract import StageResult

_DEFAULT_PORT = 11434


def ollama_url(environ: Mapping[str, str]) -> str:
    """Return the server's address from OLLAMA_HOST, read as Ollama's own command line reads it."""
    given = environ.get("OLLAMA_HOST", "").strip().strip("\"'").rstrip("/")
    scheme, found, rest = given.partition("://")
    if not found:
        scheme, rest = "http", given
    host, slash, path = rest.partition("/")
    name, colon, port = host.rpartition(":") if not host.endswith("]") else (host, "", "")
    if not colon:
        name, port = host, {"http": str(_DEFAULT_PORT), "https": "443"}.get(scheme, "") if not found else ""
    if found and not port:
        port = "443" if scheme == "https" else "80"
    if name in {"", "0.0.0.0", "[::]"}:  # noqa: S104 - an address to listen on, which is no address to call
        name = "127.0.0.1"
    return f"{scheme}://{name}:{port}{slash}{path}"


def still_served(result: StageResult, url: str) -> bool | None:
    """Return whether the server has every registered model under its name, or None if it does not answer."""
    try:
        with urllib.request.urlopen(f"{url}/api/tags", timeout=2) as response:  # noqa: S310 - the user's own address
            models = json.load(response)["models"]
    except (OSError, ValueError, KeyError, urllib.error.URLError):
        return None
    there = {model["name"]: model["digest"] for model in models}
    wanted: Mapping[str, Mapping[str, str]] = result.outputs["models"]
    return all(there.get(name) == model["digest"] for name, model in wanted.items())
