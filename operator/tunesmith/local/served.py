"""What the local edge asks the Ollama server itself: its address, and whether it still has what was registered."""

from __future__ import annotations

import http.client
import ipaddress
import json
import urllib.error
import urllib.request
from collections.abc import Mapping

from tunesmith_stages.contract import StageResult
from tunesmith_stages.model_name import still_there

_DEFAULT_PORT = "11434"


def ollama_url(environ: Mapping[str, str]) -> str:
    """Return the server's address from OLLAMA_HOST, read as Ollama's own command line reads it.

    The rules are those of ``ConnectableHost`` in Ollama's ``envconfig/config.go`` (0.34). An address to listen on
    (``0.0.0.0``, ``[::]``, none) becomes the one to call.
    """
    given = environ.get("OLLAMA_HOST", "").strip().strip("\"'").strip()
    scheme, found, rest = given.partition("://")
    if given == "ollama.com":
        scheme, rest = "https", "ollama.com:443"
    elif not found:
        scheme, rest = "http", given
    default_port = {"http": "80", "https": "443"}.get(scheme, _DEFAULT_PORT) if found else _DEFAULT_PORT
    place, _, path = rest.partition("/")
    name, port = _host_and_port(place)
    if not (port.isascii() and port.isdecimal() and int(port) <= 65535):
        port = default_port
    path = path.strip("/")
    return f"{scheme}://{_connectable(name)}:{port}" + (f"/{path}" if path else "")


def _host_and_port(place: str) -> tuple[str, str]:
    """Return the two sides of ``host:port``, the host without brackets; the port is empty where there is none."""
    name, colon, port = place.rpartition(":")
    if not colon or place.endswith("]") or (":" in name and not name.endswith("]")):
        name, port = place, ""
    return name.strip("[]"), port


def _connectable(name: str) -> str:
    """Return the host to call for one that may be an address to listen on."""
    try:
        address = ipaddress.ip_address(name or "127.0.0.1")
    except ValueError:
        return name
    if address.version == 6:
        return "[::1]" if address.is_unspecified else f"[{address}]"
    return "127.0.0.1" if address.is_unspecified else str(address)


def still_served(result: StageResult, url: str) -> bool | None:
    """Return whether the server has every registered model under its name, or None if it does not answer.

    The server is asked directly, as the stages do: no proxy of the environment stands between.
    """
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"{url}/api/tags", timeout=2) as response:
            models = json.load(response)["models"] or ()
        return still_there(result.outputs["models"], {model["name"]: model for model in models})
    except (OSError, ValueError, KeyError, TypeError, http.client.HTTPException, urllib.error.URLError):
        return None
