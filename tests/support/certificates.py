"""Certificates of a test's own authority, by the openssl command."""

import pathlib
import subprocess

DAYS = 2


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


class Authority:
    """Signs certificates; its own is `cert`. All files are in `folder`, which must exist."""

    def __init__(self, folder: pathlib.Path, name: str = "authority"):
        self.folder, self.name = folder, name
        self.cert, self._key = folder / f"{name}.pem", folder / f"{name}.key"
        self._new_key(self._key)
        _openssl(
            *("req", "-x509", "-new", "-key", str(self._key), "-days", str(DAYS)),
            *("-subj", f"/CN={name}", "-out", str(self.cert)),
        )

    @staticmethod
    def _new_key(path: pathlib.Path) -> None:
        _openssl(
            "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", str(path)
        )

    def issue(self, name: str, days: int = DAYS) -> tuple[pathlib.Path, pathlib.Path]:
        """(certificate, key) for 127.0.0.1 and localhost; days below 0: it has expired."""
        cert, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        request, extensions = self.folder / f"{name}.csr", self.folder / f"{name}.ext"
        extensions.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
        self._new_key(key)
        _openssl("req", "-new", "-key", str(key), "-subj", f"/CN={name}", "-out", str(request))
        _openssl(
            *("x509", "-req", "-in", str(request), "-CA", str(self.cert), "-CAkey", str(self._key)),
            *("-CAcreateserial", "-days", str(days), "-extfile", str(extensions)),
            *("-out", str(cert)),
        )
        return cert, key
