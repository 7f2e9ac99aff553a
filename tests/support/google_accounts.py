"""A Google of our own: key files of service accounts, and the endpoint that gives tokens for them.

Assertions are verified with google-auth's own verification, as the real endpoint does.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth import jwt

EMAIL = "gateway@project.iam.gserviceaccount.com"
CLOUD = "https://www.googleapis.com/auth/cloud-platform"
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"


class TokenEndpoint(ThreadingHTTPServer):
    """Gives tokens ``PREFIX-1``, ``PREFIX-2``, ... to whoever signs with a key that it knows."""

    daemon_threads = True

    def __init__(self, lifetime_s: int = 3_600, prefix: str = "ya29.token") -> None:
        super().__init__(("127.0.0.1", 0), _Exchange)
        self.lifetime_s = lifetime_s
        self.prefix = prefix
        self.delay_s = 0.0
        self.status = 200
        self.document: Any = None
        """Answered instead of a token, where set."""
        self.given: list[str] = []
        self.asked = 0
        self.problems: list[str] = []
        self.on_token: Callable[[str], None] = lambda _: None
        """Told of a token before whoever asked has it."""
        self.public: dict[str, bytes] = {}
        self._thread = threading.Thread(target=self.serve_forever, daemon=True)
        self._thread.start()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/token"

    def key_document(self, key_id: str = "key-1", **fields: Any) -> dict[str, Any]:
        """What a key file says. The key is known here from now on."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.public[key_id] = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return {
            "type": "service_account",
            "project_id": "project",
            "private_key_id": key_id,
            "private_key": private.decode(),
            "client_email": EMAIL,
            "token_uri": self.uri,
            **fields,
        }

    def write_key(self, path: Path, key_id: str = "key-1", **fields: Any) -> dict[str, Any]:
        """A key file, replaced as an operator's tools do."""
        document = self.key_document(key_id, **fields)
        new = path.with_suffix(".new")
        new.write_text(json.dumps(document))
        new.replace(path)
        return document

    def exchange(self, form: dict[str, list[str]]) -> tuple[int, Any]:
        self.asked += 1
        time.sleep(self.delay_s)
        if self.status != 200 or self.document is not None:
            return self.status, self.document or {"error": "invalid_grant"}
        try:
            assert form["grant_type"] == [GRANT]
            claims = jwt.decode(form["assertion"][0], certs=self.public, audience=self.uri)
            assert (claims["iss"], claims["scope"]) == (EMAIL, CLOUD)
        except Exception as error:  # the test looks at what it was
            self.problems.append(repr(error))
            return 400, {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}
        token = f"{self.prefix}-{len(self.given) + 1}"
        self.on_token(token)
        self.given.append(token)
        return 200, {"access_token": token, "expires_in": self.lifetime_s, "token_type": "Bearer"}

    def close(self) -> None:
        self.shutdown()
        self.server_close()


class _Exchange(BaseHTTPRequestHandler):
    server: TokenEndpoint
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
        status, document = self.server.exchange(form)
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass
