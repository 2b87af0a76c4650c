"""A certificate for the servers of the tests, from an authority that no machine trusts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True, slots=True)
class Certificate:
    """The paths of two PEM files: the authority's certificate, and the server's certificate with its key."""

    authority: Path
    server: Path


def new_certificate(folder: Path) -> Certificate:
    """Write a certificate for 127.0.0.1 and for the host of HubSpot's API."""
    authority = trustme.CA()
    certificate = Certificate(folder / "authority.pem", folder / "server.pem")
    authority.cert_pem.write_to_path(str(certificate.authority))
    server = authority.issue_cert("127.0.0.1", "api.hubapi.com")
    server.private_key_and_cert_chain_pem.write_to_path(str(certificate.server))
    return certificate
