"""Docker checks: a program run inside a container, by the docker command line client.

The client is used instead of the daemon's socket, so that contexts, remote hosts and credentials
work the way they are set up on the machine.
"""

from __future__ import annotations

import os
import shutil

from registry.agent.checks.base import CRITICAL, WARNING
from registry.agent.checks.script import ScriptRunner
from registry.agent.definitions import CheckDefinition
from registry.hooks import CheckResult, CheckType

DOCKER = "docker"

#: What the client says when it did not get as far as the container's program. Its exit status is
#: then 1 as well, which would be a warning.
_CLIENTS_OWN = (
    "Error response from daemon",
    "Error: No such",
    "Cannot connect to the Docker daemon",
)


class DockerRunner(ScriptRunner):
    """`docker exec CONTAINER args…`; a single argument is given to the shell when one is named."""

    def __init__(self, definition: CheckDefinition) -> None:
        args = definition.args
        if len(args) == 1:
            shell = definition.shell or os.environ.get("SHELL") or "/bin/sh"
            args = (shell, "-c", *args)
        command = (DOCKER, "exec", definition.docker_container_id, *args)
        super().__init__(command, definition.output_max_size)

    async def run(self) -> CheckResult:
        if shutil.which(DOCKER) is None:
            return CheckResult(
                CRITICAL, "docker checks need the docker command line client, which is not in $PATH"
            )
        result = await super().run()
        if result.status == WARNING and result.output.startswith(_CLIENTS_OWN):
            return CheckResult(CRITICAL, result.output)
        return result


def create(definition: CheckDefinition) -> DockerRunner:
    if not definition.args:
        raise ValueError("a docker check needs args")
    return DockerRunner(definition)


CHECK_TYPE = CheckType(key="docker_container_id", type_name="docker", create=create)
