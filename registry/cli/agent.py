"""`agent`: run an agent in the foreground.

The one command that is more than a client: here the agent is handed its faces, which stand above
it and which it does not know.
"""

from __future__ import annotations

from registry.cli.command import Command, CommandError, Invocation
from registry.goflags import HelpWanted


def agent(call: Invocation) -> int:
    from registry.agent.flags import agent_help
    from registry.agent.main import run_agent
    from registry.dns import DnsServer
    from registry.errors import RegistryError
    from registry.http.change_data import show_record
    from registry.http.server import HttpServer
    from registry.http.watch_data import render_watch

    try:
        return run_agent(
            call.arguments,
            make_faces=(HttpServer, DnsServer),
            render_watch=render_watch,
            show_record=show_record,
        )
    except HelpWanted:
        print(agent_help())
        return 0
    except RegistryError as problem:
        raise CommandError(f"==> {problem}") from problem


COMMANDS = {
    "agent": Command("agent", "", "Runs an agent in the foreground.", agent, (), "", raw=True),
}
