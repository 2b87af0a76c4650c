"""What a forked child inherits and must not use: slots and locks."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import pytest
from support.server import TokenServer

#: A process with Django set up, and what the programs below it need. Warnings of forking with threads are the point.
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
    from hubspot_identify import background, breaker, services, store
    from hubspot_identify.visitors import Visitor

    def in_child(function):
        \"\"\"What a function returns in a forked child; the child has two minutes.\"\"\"
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
        pid, reader = child
        with open(reader) as text:
            answer = text.read()
        assert os.waitpid(pid, 0)[1] == 0, "the child died or took too long"
        return json.loads(answer)

    def call(email):
        return services.create_token(Visitor(email)).value

    def settle():
        \"\"\"Have no thread that may wait for the interpreter's lock, which C forks as it is.\"\"\"
        tasks = "/proc/self/task"  # Python forgets a thread before it has ended
        while threading.active_count() > 1 or (os.path.isdir(tasks) and len(os.listdir(tasks)) > 1):
            time.sleep(0.01)
        time.sleep(0.2)
"""


def run(program: str, server: TokenServer, fork: str = "os.fork") -> str:
    """The output of a program that goes on from there."""
    text = textwrap.dedent(START) + f"fork = {fork}\n" + textwrap.dedent(program)
    done = subprocess.run(
        [sys.executable, "-c", text, server.url], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("fork", ["os.fork", "ctypes.PyDLL(None).fork"])
def test_children_never_get_each_others_tokens(token_server: TokenServer, fork: str) -> None:
    """Four children of a parent that has made a call, 200 calls each: every token is for the address it was requested
    for, on a connection of its own. Python does not notice the second kind of fork, like that of uWSGI."""
    output = run(
        """
        call("parent@example.com")
        settle()
        children = [
            in_child(lambda: [(e, call(e)) for e in (f"child{number}-{n}@example.com" for n in range(200))])
            for number in range(4)
        ]
        call("parent@example.com")
        print(json.dumps([pair for child in children for pair in result(child)]))
        """,
        token_server,
        fork,
    )
    pairs = json.loads(output)
    made = token_server.emails_by_token()
    assert len(pairs) == 800
    assert [made[token] for _, token in pairs] == [email for email, _ in pairs]
    assert token_server.connections == 802


@pytest.mark.parametrize(
    "lock",
    ["background.get_workers()._lock", "store.get_store('default')._local._lock", "background._importing.get()"],
)
def test_a_lock_held_at_the_moment_of_the_fork(token_server: TokenServer, lock: str) -> None:
    """A thread that does not exist in the child holds a lock of ours there: the child works all the same."""
    output = run(
        f"""
        call("parent@example.com")
        taken, lock = threading.Event(), {lock}

        def hold():
            with lock:
                taken.set()
                time.sleep(0.3)

        threading.Thread(target=hold, daemon=True).start()
        taken.wait()

        def child():
            store.get_store("default").set("key", 1, 60)
            store.get_store("default")._local.set("key", 1, 60)
            return services.get_token(Visitor("child@example.com"), wait=10).value

        print(result(in_child(child)))
        """,
        token_server,
    )
    assert token_server.emails_by_token()[output.strip()] == "child@example.com"


def test_a_fork_during_the_first_import(token_server: TokenServer) -> None:
    """The parent's worker is just importing the client, and holds Python's lock of that module."""
    output = run(
        """
        importing = threading.Event()

        class Slow:
            def find_spec(self, name, path=None, target=None):
                if name == "hubspot_identify.client":
                    importing.set()
                    time.sleep(0.5)

        sys.meta_path.insert(0, Slow())
        services.get_token(Visitor("parent@example.com"))
        importing.wait()
        print(result(in_child(lambda: call("child@example.com"))))
        """,
        token_server,
    )
    assert token_server.emails_by_token()[output.strip()] == "child@example.com"


def test_a_child_begins_with_free_slots(token_server: TokenServer) -> None:
    """However busy the parent's workers were at the fork; and it knows nothing of the parent's breakers."""
    token_server.set_scenario("held")
    output = run(
        """
        from hubspot_identify import client

        client.READ_TIMEOUT = 30
        asking, create_token = threading.Semaphore(0), client.TokenClient.create_token

        def ask(*arguments):
            asking.release()
            return create_token(*arguments)

        client.TokenClient.create_token = ask
        for number in range(2):
            services.get_token(Visitor(f"parent{number}@example.com"))
            asking.acquire()  # and so beyond Django's cache in memory, whose lock a fork does not renew
        before = breaker.get_breaker(services.get_config())
        child = in_child(lambda: [
            services.get_token(Visitor("child@example.com")),
            len(background.get_workers()._jobs),
            breaker.get_breaker(services.get_config()) is before,
        ])
        print(json.dumps(result(child)))
        """,
        token_server,
    )
    assert output.strip() == "[null, 1, false]"
