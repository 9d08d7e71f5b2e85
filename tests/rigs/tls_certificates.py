"""Certificates to test TLS with: an authority's, a server's, a client's, in the files of NBD programs."""

import shutil
import subprocess
from pathlib import Path

VALID_DAYS = "36500"


def openssl(*arguments: str) -> None:
    """Run it. Fails with what it says."""
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


class Certificates:
    """Below `folder`: `server` and `client` are folders for each, signed by the same authority."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder / name
        self._folder.mkdir()
        self._make("ca", f"/CN={name}", [])
        self.server = self._make_folder("server", "DNS:storage.example,DNS:localhost,IP:127.0.0.1")
        self.client = self._make_folder("client", "DNS:client.example")

    def _make(self, name: str, subject: str, more: list[str]) -> None:
        key, certificate = self._folder / f"{name}-key.pem", self._folder / f"{name}-cert.pem"
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        names = ["-subj", subject, "-keyout", str(key), "-out", str(certificate), "-days", VALID_DAYS]
        openssl("req", "-x509", *curve, *names, *more)

    def _make_folder(self, role: str, names: str) -> Path:
        issuer = ["-CA", str(self._folder / "ca-cert.pem"), "-CAkey", str(self._folder / "ca-key.pem")]
        self._make(
            role,
            f"/CN={role}",
            [*issuer, "-addext", f"subjectAltName={names}", "-addext", "basicConstraints=critical,CA:FALSE"],
        )
        folder = self._folder / role
        folder.mkdir()
        for name in ("ca-cert.pem", f"{role}-cert.pem", f"{role}-key.pem"):
            shutil.copy(self._folder / name, folder)
        return folder
