"""One of the processes that test_lock.py has fight for a lock.

`loop` takes it again and again with py-consul: a session, blocking reads, acquire, release.
`commands` runs `registry lock` again and again. Whoever holds the lock appends two lines to the
journal, so that two holders at a time would be seen in the order of the lines as well as in their
times. The key is the one that the command uses. All end when there is a file `stop` beside the
journal.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import consul
from consul.exceptions import ConsulException, NotFound

from registry.cli.holders import LOCK_FLAGS

PREFIX = "campaign"
KEY = f"{PREFIX}/.lock"
SESSION_TTL_SECONDS = 10
RENEW_SECONDS = 2.5
#: How long the lock is held, at least and at most.
HOLD_SECONDS = (0.005, 0.05)
REQUEST_SECONDS = 5.0
PAUSE_SECONDS = 0.1
#: Who loses loses its second turn and every tenth after it; then nobody gets the lock for so long.
LOSING_EVERY = 10
LOCK_DELAY_SECONDS = 2
#: What a question to the key takes at most, a tenth of a second's wait included. Two of them have
#: to be well over within the lock delay.
LOOK_SECONDS = 0.4

#: What a request may end with while servers come and go.
TROUBLE = (ConsulException, consul.std.requests.RequestException)


class Journal:
    """Lines of the holders, of all processes; each is one write to the end of one file."""

    def __init__(self, path: Path, who: str) -> None:
        self._stop = path.with_name("stop")
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._who = who

    def is_open(self) -> bool:
        return not self._stop.exists()

    def write(self, what: str, **facts: Any) -> None:
        line = {"who": self._who, "what": what, "time": time.monotonic(), **facts}
        os.write(self._file, json.dumps(line).encode() + b"\n")

    def hold(self, token: int) -> None:
        """Be the holder for a moment. `token` grows with every time that the lock is taken."""
        self.write("start", token=token)
        time.sleep(random.uniform(*HOLD_SECONDS))
        self.write("end", token=token)


def connect(address: str, seconds: float = REQUEST_SECONDS) -> consul.Consul:
    host, _, port = address.rpartition(":")
    return consul.Consul(host=host, port=int(port), connections_timeout=seconds)


class Contender:
    def __init__(self, address: str, journal: Journal, *, loses: bool) -> None:
        self._address, self._journal, self._loses = address, journal, loses
        self._turns = 0
        self._client = connect(address)
        self._renewing = connect(address)
        self._session = ""

    def run(self) -> None:
        threading.Thread(target=self._renew, daemon=True).start()
        while self._journal.is_open():
            try:
                self._need_session()
                if token := self._acquire():
                    self._hold(token)
            except TROUBLE:
                time.sleep(random.uniform(0, 2 * PAUSE_SECONDS))
        with suppress(*TROUBLE):
            self._client.session.destroy(self._session)

    def _need_session(self) -> None:
        if self._session:
            if self._client.session.info(self._session, consistency="consistent")[1]:
                return
            self._journal.write("lost")
        self._session = self._client.session.create(
            ttl=SESSION_TTL_SECONDS, lock_delay=LOCK_DELAY_SECONDS
        )

    def _renew(self) -> None:
        while True:
            with suppress(*TROUBLE, NotFound):
                if self._session:
                    self._renewing.session.renew(self._session)
            time.sleep(RENEW_SECONDS)

    def _acquire(self) -> int:
        """The token once it is held; 0 when the test is over."""
        index = None
        while self._journal.is_open():
            index, entry = self._read(index)
            if owner := (entry or {}).get("Session"):
                if owner == self._session:
                    return int(entry["ModifyIndex"])  # of a try whose answer got lost as well
                continue
            if not self._client.kv.put(KEY, "", acquire=self._session, flags=LOCK_FLAGS):
                time.sleep(random.uniform(0, PAUSE_SECONDS))  # somebody was faster, or lock delay
            index = None
        return 0

    def _read(self, index: str | None) -> tuple[str, Any]:
        found: tuple[str, Any] = self._client.kv.get(
            KEY, index=index, wait="2s", consistency="consistent"
        )
        return found

    def _hold(self, token: int) -> None:
        self._turns += 1
        if self._loses and self._turns % LOSING_EVERY == 2:
            self._lose(token)
        else:
            self._journal.hold(token)
            self._release()

    def _lose(self, token: int) -> None:
        """Have the session ended by another connection, and stop on seeing that, or nothing.

        The lock delay is what makes sure that nobody has started by then.
        """
        client = connect(self._address, LOOK_SECONDS)
        self._journal.write("start", token=token)
        session, self._session = self._session, ""
        ending = threading.Thread(target=self._end, args=(session, token))
        ending.start()
        index: str = str(token)
        owner: object = session
        with suppress(*TROUBLE):  # who hears nothing cannot know that it still holds the lock
            while owner == session:
                index, entry = client.kv.get(KEY, index, wait="100ms", consistency="consistent")
                owner = (entry or {}).get("Session")
        self._journal.write("end", token=token)
        ending.join()

    def _end(self, session: str, token: int) -> None:
        client, ended = connect(self._address), False
        self._journal.write("ending", token=token)
        while not ended:
            with suppress(*TROUBLE):
                ended = client.session.destroy(session)

    def _release(self) -> None:
        """Give it back for certain: the answer to a release may be lost, and it not be done."""
        while True:
            try:
                self._client.kv.put(KEY, "", release=self._session, flags=LOCK_FLAGS)
                return
            except TROUBLE:
                time.sleep(PAUSE_SECONDS)


def run_commands(address: str, journal_path: Path, who: str) -> None:
    lock = [sys.executable, "-m", "registry", "lock", f"-http-addr={address}"]
    hold = [sys.executable, __file__, "hold", address, str(journal_path), who]
    while Journal(journal_path, who).is_open():
        # A failure (no leader, the lock lost) is not one of the test: what counts is who holds it.
        subprocess.run(
            [*lock, "-timeout=3s", "-monitor-retry=5", PREFIX, *hold],
            stdin=subprocess.DEVNULL,
            check=False,
            timeout=60,
        )


def hold_for_command(address: str, journal: Journal) -> None:
    """What `registry lock` runs. Which session holds the lock it is not told, only that it does."""
    while True:
        with suppress(*TROUBLE):
            _, entry = connect(address).kv.get(KEY, consistency="consistent")
            break
        time.sleep(PAUSE_SECONDS)
    assert entry, "the lock is held, and its key does not exist"
    assert entry.get("Session"), "the lock is held by nobody"
    journal.hold(entry["ModifyIndex"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["loop", "commands", "hold"])
    parser.add_argument("address", help="host:port of the agent")
    parser.add_argument("journal", type=Path)
    parser.add_argument("who")
    parser.add_argument("--loses", action="store_true", help="a loop: now and then its session")
    given = parser.parse_args()
    journal = Journal(given.journal, given.who)
    if given.kind == "loop":
        Contender(given.address, journal, loses=given.loses).run()
    elif given.kind == "commands":
        run_commands(given.address, given.journal, given.who)
    else:
        hold_for_command(given.address, journal)


if __name__ == "__main__":
    main()
