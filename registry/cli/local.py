"""Commands that need no agent: keygen, validate, version."""

from __future__ import annotations

import base64
import json
import secrets

from registry import COMPATIBLE_VERSION, __version__
from registry.cli.command import Command, CommandError, Invocation, say
from registry.goflags import Flag, boolean

GOSSIP_KEY_BYTES = 32
#: Which program it is, where others name a commit.
REVISION = f"registry-{__version__}"
PROTOCOL_DEFAULT, PROTOCOL_MIN, PROTOCOL_MAX = 2, 2, 3


def keygen(call: Invocation) -> int:
    say(base64.b64encode(secrets.token_bytes(GOSSIP_KEY_BYTES)).decode())
    return 0


def validate(call: Invocation) -> int:
    from pathlib import Path

    from registry.agent.loading import file_formats
    from registry.agent.validate import validate_paths
    from registry.errors import ConfigError
    from registry.plugins import Plugins

    if not call.arguments:
        raise CommandError("Must specify at least one config file or directory")
    try:
        # A plugin may bring types of checks and formats of files.
        plugins = Plugins.load([Path(path) for path in call["plugin-dir"]])
        formats = {suffix.removeprefix(".") for suffix in file_formats(plugins)}
        if call["config-format"] not in ("", *formats):
            raise CommandError("-config-format must be either 'hcl' or 'json")
        paths = [Path(path) for path in call.arguments]
        validate_paths(paths, call["config-format"], plugins)
    except ConfigError as problem:
        raise CommandError(f"Config validation failed: {problem}") from problem
    if not call["quiet"]:
        say("Configuration is valid!")
    return 0


def version(call: Invocation) -> int:
    if call["format"] == "json":
        rpc = {"Default": PROTOCOL_DEFAULT, "Min": PROTOCOL_MIN, "Max": PROTOCOL_MAX}
        facts = {
            "Version": COMPATIBLE_VERSION,
            "Revision": REVISION,
            "Prerelease": "",
            "RPC": rpc,
        }
        say(json.dumps(facts, indent=4))
        return 0
    if call["format"] != "pretty":
        raise CommandError(f"Unknown format: {call['format']}")
    # The first line is what scripts take the API level from.
    say(f"Consul v{COMPATIBLE_VERSION}")
    say(f"Revision {REVISION}")
    say(
        f"Protocol {PROTOCOL_DEFAULT} spoken by default, "
        f"understands {PROTOCOL_MIN} to {PROTOCOL_MAX} (agent will automatically use "
        f"protocol >{PROTOCOL_DEFAULT} when speaking to compatible agents)"
    )
    return 0


COMMANDS = {
    "keygen": Command("keygen", "", "Prints a new key for gossip encryption.", keygen, (), ""),
    "validate": Command(
        "validate",
        "FILE_OR_DIRECTORY...",
        "Checks configuration files and directories as the agent would at its start.",
        validate,
        (
            Flag("config-format", "Read every file as hcl or json.", default=""),
            Flag(
                "plugin-dir", "Load plugins from here too; repeatable.", repeat=True, metavar="path"
            ),
            Flag("quiet", "Say nothing when all is well.", boolean, False),
        ),
        "",
    ),
    "version": Command(
        "version",
        "",
        "Shows the level of the API and the version of this program.",
        version,
        (Flag("format", "pretty or json; default pretty.", default="pretty"),),
        "",
    ),
}
