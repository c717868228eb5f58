"""The authorities whose certificates https trusts: the public ones, and the administrator's besides them.

Libraries know only of a file that is trusted *instead* of the public authorities: httpx and OpenSSL by SSL_CERT_FILE,
requests by REQUESTS_CA_BUNDLE. So they are given one that holds both.
"""

from __future__ import annotations

import os
import ssl
import tempfile
from pathlib import Path

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.failures import StageError

GIVEN = "TUNESMITH_CA_FILE"
"""Variable that names a file with the administrator's authorities (PEM)."""


def trust_given_authorities() -> None:
    """Let this process and those that it starts trust the given authorities, if any, besides the public ones.

    Raises:
        StageError: the file holds no certificates.
    """
    file = os.environ.get(GIVEN)
    if not file:
        return
    try:
        ssl.create_default_context(cafile=file)
    except OSError as error:  # ssl.SSLError is one
        raise StageError(
            ExitCode.BAD_CONFIG,
            f"the certificates in {file} cannot be read: {error}",
            reason="InvalidCaBundle",
            hint="`network.caBundle` (the administrator's settings) must be PEM text: one or more blocks of "
            "-----BEGIN CERTIFICATE-----.",
        ) from error
    import certifi  # not needed, and not there, where llama.cpp is built for an image

    both = Path(certifi.where()).read_bytes() + b"\n" + Path(file).read_bytes()
    with tempfile.NamedTemporaryFile(prefix="authorities-", suffix=".pem", delete=False) as joined:
        joined.write(both)  # it stays for the processes that this one starts, and goes with the pod
    os.environ.update(SSL_CERT_FILE=joined.name, REQUESTS_CA_BUNDLE=joined.name)
