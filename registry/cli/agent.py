"""`agent`: run an agent in the foreground."""

from __future__ import annotations

from registry.cli.command import Command, CommandError, Invocation
from registry.goflags import HelpWanted


def agent(call: Invocation) -> int:
    from registry.agent.main import agent_help, run_agent
    from registry.errors import RegistryError

    try:
        return run_agent(call.arguments)
    except HelpWanted:
        print(agent_help())
        return 0
    except RegistryError as problem:
        raise CommandError(f"==> {problem}") from problem


COMMANDS = {
    "agent": Command("agent", "", "Runs an agent in the foreground.", agent, (), "", raw=True),
}
