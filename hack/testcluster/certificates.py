"""The keys and certificates of a test cluster, and the kubeconfigs that name them. Made by ``openssl``."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_DAYS = "365"
_API_NAMES = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")


@dataclass(frozen=True)
class Authority:
    """A certificate authority in a folder, which holds all that it signs."""

    folder: Path

    @property
    def certificate(self) -> Path:
        """The authority's own certificate."""
        return self.folder / "ca.crt"

    def key_of(self, name: str) -> Path:
        """Return the private key of what :meth:`sign` was asked for by `name`."""
        return self.folder / f"{name}.key"

    def certificate_of(self, name: str) -> Path:
        """Return the certificate of what :meth:`sign` was asked for by `name`."""
        return self.folder / f"{name}.crt"

    def sign(self, name: str, subject: str, names: Sequence[str] = ()) -> None:
        """Make a key and a certificate for a server and client.

        Args:
            name: of the files.
            subject: who it is: ``/CN=user`` or ``/O=group/CN=user``.
            names: what a server is reached by: ``DNS:host`` or ``IP:address``.
        """
        wanted = self.folder / f"{name}.csr"
        _new_key(self.key_of(name))
        _openssl("req", "-new", "-key", self.key_of(name), "-subj", subject, "-out", wanted)
        extensions = ["keyUsage=critical,digitalSignature,keyEncipherment", "extendedKeyUsage=serverAuth,clientAuth"]
        if names:
            extensions.append(f"subjectAltName={','.join(names)}")
        told = self.folder / f"{name}.ext"
        told.write_text("\n".join(extensions), encoding="utf-8")
        signed: list[str | Path] = [
            "-CA",
            self.certificate,
            "-CAkey",
            self.key_of("ca"),
            "-CAcreateserial",
            "-days",
            _DAYS,
        ]
        _openssl("x509", "-req", "-in", wanted, *signed, "-extfile", told, "-out", self.certificate_of(name))

    def kubeconfig(self, path: Path, server: str, name: str) -> None:
        """Write a kubeconfig of the client that :meth:`sign` was asked for by `name`."""
        files = {"client-certificate": self.certificate_of(name), "client-key": self.key_of(name)}
        cluster = {"server": server, "certificate-authority-data": _embedded(self.certificate)}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "tunesmith-test", "cluster": cluster}],
            "users": [{"name": name, "user": {f"{field}-data": _embedded(file) for field, file in files.items()}}],
            "contexts": [{"name": "tunesmith-test", "context": {"cluster": "tunesmith-test", "user": name}}],
            "current-context": "tunesmith-test",
        }
        path.touch(mode=0o600)
        path.write_text(json.dumps(config, indent=1), encoding="utf-8")  # JSON is YAML


def new_authority(folder: Path) -> Authority:
    """Make a certificate authority in a new folder, and the key that signs the tokens of service accounts."""
    folder.mkdir(mode=0o700, parents=True)
    authority = Authority(folder)
    _new_key(authority.key_of("ca"))
    usage = ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign"]
    signed: list[str | Path] = ["-key", authority.key_of("ca"), "-subj", "/CN=tunesmith-test", "-days", _DAYS]
    _openssl("req", "-x509", "-new", *signed, *usage, "-out", authority.certificate)
    tokens = authority.key_of("tokens")
    _new_key(tokens)
    _openssl("pkey", "-in", tokens, "-pubout", "-out", tokens.with_suffix(".pub"))
    return authority


def sign_control_plane(authority: Authority, addresses: Sequence[str]) -> None:
    """Sign what the programs of the control plane need, and an administrator's certificate.

    `addresses` are the IP addresses that the API server is reached by.
    """
    names = [*(f"DNS:{name}" for name in (*_API_NAMES, "localhost")), *(f"IP:{address}" for address in addresses)]
    authority.sign("apiserver", "/CN=kube-apiserver", names)
    authority.sign("apiserver-kubelet-client", "/O=system:masters/CN=kube-apiserver-kubelet-client")
    authority.sign("front-proxy", "/CN=front-proxy")
    authority.sign("admin", "/O=system:masters/CN=admin")
    authority.sign("controller-manager", "/CN=system:kube-controller-manager")
    authority.sign("scheduler", "/CN=system:kube-scheduler")


def _embedded(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()


def _new_key(path: Path) -> None:
    _openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", path)


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
