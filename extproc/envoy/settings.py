"""Where one gateway listens and keeps its files: what is not policy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SYSTEM_CA_FILE = "/etc/ssl/certs/ca-certificates.crt"


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """Paths and addresses of one gateway."""

    listen_host: str
    listen_port: int
    socket_folder: Path
    """Unix sockets between Envoy and sidecar."""
    config_folder: Path
    """Generated Envoy configuration, watched by Envoy."""
    ca_file: str = SYSTEM_CA_FILE
    tls_certificate: str = ""
    """PEM files of the public listener; empty: plain HTTP."""
    tls_key: str = ""
    socket_mode: int = 0o600
    """Of the sockets between Envoy and sidecar, and of Envoy's admin socket: 0o660 when the two run
    under different users of one group."""
    token_folder: Path | None = None
    """Google access tokens; best in memory (tmpfs). None: beside the sockets."""

    @property
    def tokens(self) -> Path:
        """Where Google access tokens are kept, for Envoy to read."""
        return self.token_folder or self.socket_folder / "tokens"

    @property
    def is_shared(self) -> bool:
        """Envoy and sidecar run under different users of one group."""
        return bool(self.socket_mode & 0o070)
