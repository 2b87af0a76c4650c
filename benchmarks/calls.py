"""One call over TLS with verified certificates: this app's client beside other clients.

Two programs of its own: ``calls.py serve <certificate> <key>`` answers at once, so that all the time is the client's;
``calls.py <port> <rounds>`` calls it and prints JSON.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import ssl
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from servers import Process, child_environment, serving

CALLS = 20  # a round, of each client


def measure(directory: str, rounds: int) -> dict[str, float] | None:
    """Medians in microseconds; ``None`` without the program ``openssl``."""
    if (openssl := shutil.which("openssl")) is None:
        return None
    place = Path(directory)
    bundle = _make_certificates(openssl, place)
    command = [sys.executable, __file__, "serve", str(place / "server.pem"), str(place / "server.key")]
    server = Process(lambda port: [*command, str(port)], child_environment())
    with serving(server):
        # What clients trust: the usual authorities and ours, for reading that file is a part of the cost.
        environment = child_environment(REQUESTS_CA_BUNDLE=str(bundle), SSL_CERT_FILE=str(bundle))
        child = subprocess.run(
            [sys.executable, __file__, str(server.port), str(rounds)],
            env=environment,
            check=True,
            stdout=subprocess.PIPE,
        )
    figures: dict[str, float] = json.loads(child.stdout)
    return figures


def _make_certificates(openssl: str, place: Path) -> Path:
    """An authority of ours, a certificate for ``localhost``, and a bundle of it with the usual authorities."""
    import certifi

    def run(*arguments: str) -> None:
        subprocess.run([openssl, *arguments], cwd=place, check=True, capture_output=True)

    (place / "extensions").write_text("subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n")
    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    ca = ("-addext", "keyUsage=critical,keyCertSign")
    run("req", "-x509", *new_key, *ca, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=Benchmark CA", "-days", "2")
    run("req", "-new", *new_key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost")
    signed_by = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "extensions")
    run("x509", "-req", "-in", "server.csr", *signed_by, "-out", "server.pem")
    bundle = place / "bundle.pem"
    bundle.write_text(Path(certifi.where()).read_text() + (place / "ca.pem").read_text())
    return bundle


def call(port: int, rounds: int) -> dict[str, float]:
    """Medians of single calls in microseconds, the clients in turns."""
    import django

    django.setup()
    import requests
    from django.conf import settings
    from hubspot import HubSpot
    from hubspot.conversations.visitor_identification import IdentificationTokenGenerationRequest

    from hubspot_identify import services
    from hubspot_identify._hubspot.client import TokenClient
    from hubspot_identify.conf import get_config
    from hubspot_identify.visitors import Visitor

    url = f"https://localhost:{port}"
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "BASE_URL": url}
    visitor = Visitor("user1@example.com", "Ada", "Lovelace")
    config = get_config()
    body = {"email": "user1@example.com", "firstName": "Ada", "lastName": "Lovelace"}
    headers = {"Authorization": f"Bearer {settings.API_KEY}"}
    session = requests.Session()
    api_client = HubSpot(access_token=settings.API_KEY, host=url)
    sdk_request = IdentificationTokenGenerationRequest(email=body["email"], first_name="Ada", last_name="Lovelace")

    def sdk() -> str:
        return api_client.conversations.visitor_identification.generate_api.generate_token(sdk_request).token

    clients: dict[str, Callable[[], Any]] = {
        "hubspot-api-client 12, as documented": sdk,
        "requests.post": lambda: requests.post(url + settings.TOKEN_PATH, json=body, headers=headers).json()["token"],
        "requests.Session, kept": lambda: session.post(url + settings.TOKEN_PATH, json=body, headers=headers).json()[
            "token"
        ],
        "TokenClient.create_token": lambda: TokenClient().create_token(visitor, config),
        "services.create_token": lambda: services.create_token(visitor).value,
    }
    times: dict[str, list[float]] = {name: [] for name in clients}
    for number in range(rounds + 1):
        for name, client in clients.items():
            for _ in range(CALLS):
                started = time.perf_counter()
                assert client() == "token"
                if number:
                    times[name].append(time.perf_counter() - started)
    return {name: statistics.median(seen) * 1e6 for name, seen in times.items()}


async def serve(certificate: str, key: str, port: int) -> None:
    """Answer every request with a token, over connections that stay open."""
    body = b'{"token": "token"}'
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)

    async def answer_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                await reader.readexactly(int(head.partition(b"content-length:")[2].split(b"\r\n")[0]))
                writer.write(answer)
        except (asyncio.IncompleteReadError, OSError):
            writer.close()

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    server = await asyncio.start_server(answer_all, "127.0.0.1", port, ssl=context)
    await server.serve_forever()


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(serve(sys.argv[2], sys.argv[3], int(sys.argv[4])))
    else:
        print(json.dumps(call(int(sys.argv[1]), int(sys.argv[2]))))
