from __future__ import annotations

import errno
import threading
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.core.management import BaseCommand, CommandError, call_command
from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler, get_internal_wsgi_application

from ...people import PASSWORD, PEOPLE
from ...sandbox import sandbox_settings
from ...walk import UnexpectedResultError, walk


class QuietHandler(WSGIRequestHandler):
    """Logs no requests, because the URLs of the widget contain e-mail addresses and tokens."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Command(BaseCommand):
    help = "Prepare the database and the users of the example site, and serve it or check it."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--port", type=int, default=8000, help="Port to serve on (default: 8000).")
        parser.add_argument(
            "--check",
            action="store_true",
            help="Log in, chat and read the inbox once, with the sandbox and without a browser. Exit code 0 or 1.",
        )

    def handle(self, *, port: int, check: bool, **options: Any) -> None:
        if check:
            settings.USES_SANDBOX = True
        if settings.USES_SANDBOX and not settings.DEBUG:
            raise CommandError("The sandbox needs DEBUG. Remove DEBUG from the environment, or set it to true.")
        call_command("migrate", verbosity=0)
        create_people()
        if check:
            self.check_once()
        else:
            self.serve(port)

    def serve(self, port: int) -> None:
        try:
            server = make_server(port)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            problem = "is in use" if error.errno == errno.EADDRINUSE else "requires privileges"
            raise CommandError(f"Port {port} {problem}. Choose another port: demo --port {port + 1}") from error
        with server:
            origin = configure_sandbox(server)
            self.stdout.write(f"\nThe example site is at {self.style.SUCCESS(f'{origin}/')}\n\n")
            for username, person in PEOPLE.items():
                self.stdout.write(f"  log in as  {username:6}  password  {PASSWORD}   ({person['email']})")
            if settings.USES_SANDBOX:
                self.stdout.write(f"\nHubSpot is simulated. Its support inbox is at {origin}/sandbox/inbox/")
            else:
                self.stdout.write(f"\nThe site uses the HubSpot portal {settings.HUBSPOT_PORTAL_ID}.")
            self.stdout.write("Stop with Ctrl+C.\n")
            self.stdout.flush()
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                self.stdout.write("")

    def check_once(self) -> None:
        with serving() as origin:
            try:
                for step in walk(origin):
                    self.stdout.write(f"✓ {step}")
            except UnexpectedResultError as error:
                raise CommandError(str(error)) from error
        self.stdout.write(self.style.SUCCESS("No problems found."))


def create_people() -> None:
    for username, person in PEOPLE.items():
        user, created = get_user_model().objects.update_or_create(username=username, defaults=person)
        if created or not user.check_password(PASSWORD):
            user.set_password(PASSWORD)
            user.save()


def make_server(port: int) -> ThreadedWSGIServer:
    """Return a server that is bound to a port and not yet started. Port 0 means any free port."""
    server = ThreadedWSGIServer(("127.0.0.1", port), QuietHandler)
    server.daemon_threads = True
    server.set_app(StaticFilesHandler(get_internal_wsgi_application()))
    return server


def configure_sandbox(server: ThreadedWSGIServer) -> str:
    """Return the origin of the site, at which the sandbox is also reachable if the site uses it."""
    origin = f"http://127.0.0.1:{server.server_port}"
    if settings.USES_SANDBOX:
        settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, **sandbox_settings(origin)}
    return origin


@contextmanager
def serving() -> Iterator[str]:
    """Serve the site on a free port within the block, and yield its origin."""
    with make_server(0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield configure_sandbox(server)
        finally:
            server.shutdown()
            thread.join()
