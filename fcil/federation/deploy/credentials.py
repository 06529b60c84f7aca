"""Throw-away keys for a federation on this machine: an authority, the server's certificate, a key for each node.

They hold for a week and for the loopback address alone. The nodes of a real federation make their own
keys, and send the public ones to the operator of the SuperLink.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization as forms
from cryptography.hazmat.primitives.asymmetric import ec

DAYS = 7
Key = ec.EllipticCurvePrivateKey


@dataclass(frozen=True)
class Credentials:
    """Files in a folder."""

    folder: Path

    @property
    def authority(self) -> Path:
        """Path of the certificate that identifies the server."""
        return self.folder / "ca.pem"

    @property
    def certificate(self) -> Path:
        return self.folder / "server.pem"

    @property
    def key(self) -> Path:
        return self.folder / "server.key"

    def node(self, name: str) -> tuple[Path, Path]:
        """A new key pair for a node: the files of the private and of the public key."""
        private, public = self.folder / f"{name}.key", self.folder / f"{name}.pub"
        pair = ec.generate_private_key(ec.SECP384R1())
        _write(private, _private(pair, forms.PrivateFormat.OpenSSH))
        _write(public, pair.public_key().public_bytes(forms.Encoding.OpenSSH, forms.PublicFormat.OpenSSH))
        return private, public


def make_credentials(folder: Path) -> Credentials:
    """An authority, and a certificate of the server that it signed. The authority's own key is kept nowhere."""
    made = Credentials(folder)
    authority, server = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = _name("fcil authority")
    own = _certificate(issuer, issuer, authority).add_extension(x509.BasicConstraints(True, 0), critical=True)
    places = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))])
    signed = _certificate(_name("localhost"), issuer, server).add_extension(places, critical=False)
    _write(made.authority, own.sign(authority, hashes.SHA256()).public_bytes(forms.Encoding.PEM))
    _write(made.certificate, signed.sign(authority, hashes.SHA256()).public_bytes(forms.Encoding.PEM))
    _write(made.key, _private(server, forms.PrivateFormat.PKCS8))
    return made


def _certificate(subject: x509.Name, issuer: x509.Name, key: Key) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(minutes=5))
    return builder.not_valid_after(now + datetime.timedelta(days=DAYS))


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def _private(key: Key, form: forms.PrivateFormat) -> bytes:
    return key.private_bytes(forms.Encoding.PEM, form, forms.NoEncryption())


def _write(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)
