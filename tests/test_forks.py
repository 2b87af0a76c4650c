"""A forked child does not use the connections, locks and worker slots of its parent."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import pytest
from support.server import TokenServer

pytestmark = pytest.mark.slow

#: Set up Django and define what the programs below need. Forking with threads causes warnings, which are expected.
START = """
    import ctypes, json, os, signal, sys, threading, time, warnings
    warnings.simplefilter("ignore", DeprecationWarning)
    import django
    from django.conf import settings

    settings.configure(
        SECRET_KEY="only-for-tests",
        INSTALLED_APPS=["hubspot_identify"],
        HUBSPOT_IDENTIFY={"API_KEY": "key", "BASE_URL": sys.argv[1], "EMAIL_VERIFIED": True, "RATE_LIMIT": 1000,
                          "TIMEOUT": 30},
    )
    django.setup()
    from hubspot_identify import services
    from hubspot_identify._tokens import workers as workers_module
    from hubspot_identify._tokens import account
    from hubspot_identify.visitors import Visitor

    def in_child(function):
        \"\"\"Start a forked child that runs a function within two minutes.\"\"\"
        reader, writer = os.pipe()
        pid = fork()
        if pid == 0:
            signal.alarm(120)
            os.close(reader)
            with open(writer, "w") as output:
                json.dump(function(), output)
            os._exit(0)
        os.close(writer)
        return pid, reader

    def result(child):
        \"\"\"Wait for a child, and return what its function returned.\"\"\"
        pid, reader = child
        with open(reader) as text:
            output = text.read()
        assert os.waitpid(pid, 0)[1] == 0, "the child died or took too long"
        return json.loads(output)

    def call(email):
        return services.create_token(Visitor(email)).value

    def wait_for_threads():
        \"\"\"Wait until no other thread can hold the interpreter's lock, which a fork in C copies in its state.\"\"\"
        tasks = "/proc/self/task"  # Python forgets a thread before it has ended
        while threading.active_count() > 1 or (os.path.isdir(tasks) and len(os.listdir(tasks)) > 1):
            workers_module.get_workers().end_idle_threads()
            time.sleep(0.01)
        time.sleep(0.2)
"""


def run(program: str, server: TokenServer, fork: str = "os.fork") -> str:
    """Return the output of a program that continues after ``START``."""
    text = textwrap.dedent(START) + f"fork = {fork}\n" + textwrap.dedent(program)
    done = subprocess.run(
        [sys.executable, "-c", text, server.url], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("fork", ["os.fork", "ctypes.PyDLL(None).fork"])
def test_children_never_get_each_others_tokens(token_server: TokenServer, fork: str) -> None:
    """Four children of a parent that has made a call make 50 calls each: every token is for the requested address, on
    a connection of its own. Python does not notice the second kind of fork, which uWSGI uses."""
    output = run(
        """
        call("parent@example.com")
        wait_for_threads()
        children = [
            in_child(lambda: [(e, call(e)) for e in (f"child{number}-{n}@example.com" for n in range(50))])
            for number in range(4)
        ]
        call("parent@example.com")
        print(json.dumps([pair for child in children for pair in result(child)]))
        """,
        token_server,
        fork,
    )
    pairs = json.loads(output)
    emails = token_server.emails_by_token()
    assert len(pairs) == 200
    assert [emails[token] for _, token in pairs] == [email for email, _ in pairs]
    assert token_server.connections == 202


def test_lock_held_during_the_fork_does_not_block_the_child(token_server: TokenServer) -> None:
    """A thread of the parent, which does not exist in the child, holds one of the app's locks. The child works."""
    output = run(
        """
        call("parent@example.com")

        def hold(lock, taken):
            with lock:
                taken.set()
                time.sleep(0.3)

        def child(number):
            account.get_account().store.set("key", 1, 60)
            account.get_account().store._unsaved.add("key", 1, 60)
            return services.get_token(Visitor(f"child{number}@example.com"), wait=10).value

        tokens = []
        store = account.get_account().store
        locks = workers_module.get_workers()._lock, store._unsaved._lock, workers_module._importing.get()
        for number, lock in enumerate(locks):
            taken = threading.Event()
            threading.Thread(target=hold, args=(lock, taken), daemon=True).start()
            taken.wait()
            tokens.append(result(in_child(lambda: child(number))))
        print(json.dumps(tokens))
        """,
        token_server,
    )
    emails = token_server.emails_by_token()
    assert [emails[token] for token in json.loads(output)] == [f"child{number}@example.com" for number in range(3)]


def test_fork_during_the_first_import_does_not_block_the_child(token_server: TokenServer) -> None:
    """The parent's worker is importing the client, and holds Python's lock of that module."""
    output = run(
        """
        importing = threading.Event()

        class SlowFinder:
            def find_spec(self, name, path=None, target=None):
                if name == "hubspot_identify._hubspot.client":
                    importing.set()
                    time.sleep(0.5)

        sys.meta_path.insert(0, SlowFinder())
        services.get_token(Visitor("parent@example.com"))
        importing.wait()
        print(result(in_child(lambda: call("child@example.com"))))
        """,
        token_server,
    )
    assert token_server.emails_by_token()[output.strip()] == "child@example.com"


def test_child_has_free_slots_and_new_breakers(token_server: TokenServer) -> None:
    """The child can schedule a fetch although all workers of the parent were busy during the fork."""
    token_server.set_scenario("held")
    output = run(
        """
        from hubspot_identify._hubspot import client

        client.READ_TIMEOUT = 30
        called, create_token = threading.Semaphore(0), client.TokenClient.create_token

        def count_and_create(*arguments):
            called.release()
            return create_token(*arguments)

        client.TokenClient.create_token = count_and_create
        for number in range(2):
            services.get_token(Visitor(f"parent{number}@example.com"))
            called.acquire()  # the worker no longer holds the lock of Django's local-memory cache, which stays locked
        before = account.get_account().breaker
        child = in_child(lambda: [
            services.get_token(Visitor("child@example.com")),
            len(workers_module.get_workers()._jobs),
            account.get_account().breaker is before,
        ])
        print(json.dumps(result(child)))
        """,
        token_server,
    )
    assert output.strip() == "[null, 1, false]"
