"""Certificates made for a test: an authority, and servers that it vouches for."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)


class Authority:
    """A certificate authority of our own."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = _named(name)
        now = datetime.datetime.now(datetime.UTC)
        builder = self._certificate(self._subject, self._key, now + DAY)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        self.file = folder / f"{name}.pem"
        """The certificate to trust."""
        certificate = builder.sign(self._key, hashes.SHA256())
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def server(self, *names: str, expired: bool = False) -> Path:
        """A server's key and certificate for these names or addresses, in one PEM file."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        builder = self._certificate(_named("server"), key, now - DAY if expired else now + DAY)
        alternatives = x509.SubjectAlternativeName([_alternative(name) for name in names])
        certificate = builder.add_extension(alternatives, False).sign(self._key, hashes.SHA256())
        words = (self._name, *names, *(["expired"] if expired else []))
        path = self._folder / ("-".join(words).replace("*", "any") + ".pem")
        path.write_bytes(
            certificate.public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return path

    def _certificate(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, until: datetime.datetime
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(until - 3 * DAY)
            .not_valid_after(until)
        )


def server_context(pem: Path) -> ssl.SSLContext:
    """For a server with the file of ``Authority.server``; ``asked`` is the name a client sent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    context.sni_callback = lambda _, name, ctx: setattr(ctx, "asked", name)
    return context


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
