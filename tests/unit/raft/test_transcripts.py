"""Protocol behaviour as transcripts: who sends what to whom, and what becomes of it.

Commands (servers are single letters):

    servers a b c [learners=d] [outsiders=e] [setting=value ...]
    log a 1 1 2          entries of these terms behind the configuration, before anything starts
    campaign a | tick a 3 | propose a x y | read a 7 [consistent] | transfer a b
    change a add-learner d | promote d | demote b | remove b   (based on what is in force)
    handle               do what the cores ask for (writes, sends)
    deliver [a->b]       hand over what is under way, of all links or one
    settle               both, until all is quiet
    quietly COMMAND      any of these, showing nothing but a refusal
    drop [a->b] | cut a->b | isolate a | heal
    hold a | release a   the disk
    crash a | restart a
    status | log-of a
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from registry.errors import RegistryError
from registry.raft.membership import AddLearner, ConfigChange, Demote, Promote, Remove
from registry.raft.messages import AnyMessage
from registry.testing.raft_cores import Cores, log_of
from registry.testing.transcripts import play

TESTDATA = Path(__file__).parent / "testdata"
SWITCHES = {"on": True, "off": False}


class Stage:
    """Runs the commands of one transcript."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._logs: dict[str, list[int]] = {}
        self._declared: list[str] = []
        self._started: Cores | None = None

    def run(self, command: list[str]) -> list[str]:
        self.lines.clear()
        name, *arguments = command
        if name == "quietly":
            return [line for line in self.run(arguments) if line.startswith("refused")]
        try:
            getattr(self, "do_" + name.replace("-", "_"))(*arguments)
        except RegistryError as error:
            self.lines.append(f"refused: {error}")
        return list(self.lines)

    @property
    def cores(self) -> Cores:
        if self._started is None:
            self._started = self._start()
        return self._started

    def _start(self) -> Cores:
        groups: dict[str, Any] = {}
        settings: dict[str, Any] = {}
        voters: list[str] = []
        for word in self._declared:
            key, _, value = word.partition("=")
            if not value:
                voters.append(word)
            elif key in ("learners", "outsiders"):
                groups[key] = value.split(",")
            else:
                settings[key.replace("-", "_")] = SWITCHES.get(value) or int(
                    SWITCHES.get(value, value)
                )
        logs = {i: log_of(*terms, first=2) for i, terms in self._logs.items()}
        return Cores(*voters, **groups, logs=logs, trace=self.lines.append, **settings)

    def do_servers(self, *words: str) -> None:
        self._declared = list(words)

    def do_log(self, server: str, *terms: str) -> None:
        self._logs[server] = [int(term) for term in terms]

    def do_campaign(self, server: str) -> None:
        self.cores[server].campaign()

    def do_tick(self, server: str, n: str = "1") -> None:
        self.cores.tick(*([] if server == "all" else [server]), n=int(n))

    def do_run(self, n: str) -> None:
        self.cores.run(int(n))

    def do_propose(self, server: str, *data: str) -> None:
        self.cores[server].propose([item.encode() for item in data])

    def do_read(self, server: str, context: str, consistent: str = "") -> None:
        self.cores[server].read(int(context), consistent=bool(consistent))

    def do_transfer(self, server: str, target: str | None = None) -> None:
        self.cores[server].transfer(target)

    def do_change(self, server: str, kind: str, target: str) -> None:
        core = self.cores[server]
        based_on = core.configuration.index
        changes: dict[str, Callable[[], ConfigChange]] = {
            "add-learner": lambda: AddLearner(
                id=target, based_on=based_on, address=f"{target}:8300"
            ),
            "promote": lambda: Promote(id=target, based_on=based_on),
            "demote": lambda: Demote(id=target, based_on=based_on),
            "remove": lambda: Remove(id=target, based_on=based_on),
        }
        core.propose_configuration(changes[kind]())

    def do_handle(self) -> None:
        self.cores.handle()

    def do_deliver(self, link: str = "") -> None:
        self.cores.deliver(_on_link(link))

    def do_settle(self) -> None:
        self.cores.settle()

    def do_drop(self, link: str = "") -> None:
        dropped = self.cores.drop(_on_link(link))
        self.lines.append(f"dropped {len(dropped)}")

    def do_cut(self, link: str) -> None:
        sender, _, receiver = link.partition("->")
        self.cores.cut(sender, receiver)

    def do_isolate(self, *servers: str) -> None:
        self.cores.isolate(*servers)

    def do_heal(self) -> None:
        self.cores.heal()

    def do_hold(self, server: str) -> None:
        self.cores.hold_disk(server)

    def do_release(self, server: str) -> None:
        self.cores.release_disk(server)

    def do_crash(self, server: str) -> None:
        self.cores.crash(server)

    def do_restart(self, server: str) -> None:
        self.cores.restart(server)

    def do_status(self) -> None:
        for server in self.cores.up:
            core = self.cores[server]
            self.lines.append(
                f"{server}: {core.role.value} term={core.term} leader={core.leader_id or '?'} "
                f"last={core.last_index}/{core.last_term} durable={core.durable_index} "
                f"commit={core.commit_index}"
            )

    def do_progress(self, server: str) -> None:
        for peer, view in self.cores[server].progress.items():
            self.lines.append(
                f"{peer}: {view.state.value} match={view.match} next={view.next} "
                f"inflight={view.inflight}"
            )

    def do_log_of(self, server: str) -> None:
        self.lines.append(" ".join(map(str, self.cores.terms(server))))


def _on_link(link: str) -> Callable[[AnyMessage], bool] | None:
    if not link:
        return None
    sender, _, receiver = link.partition("->")
    return lambda message: (message.sender, message.receiver) == (sender, receiver)


@pytest.mark.parametrize("path", sorted(TESTDATA.glob("*.txt")), ids=lambda path: path.stem)
def test_transcript(path: Path, pytestconfig: pytest.Config) -> None:
    play(path, Stage().run, rewrite=bool(pytestconfig.getoption("rewrite")))
