"""`login` and `logout`: trading a bearer token for an ACL token, and giving that back."""

from __future__ import annotations

import os
from typing import Any

from registry.cli.command import Command, CommandError, Invocation, file_problem, say
from registry.errors import RegistryError
from registry.goflags import Flag, pair


def login(call: Invocation) -> int:
    for flag in ("method", "token-sink-file", "bearer-token-file"):
        if not call[flag]:
            raise CommandError(f"Missing required '-{flag}' flag")
    body: dict[str, Any] = {
        "AuthMethod": call["method"],
        "BearerToken": _bearer_token(call["bearer-token-file"]),
    }
    if call["meta"]:
        body["Meta"] = dict(call["meta"])
    try:
        token = call.client.request("POST", "/v1/acl/login", json_body=body).json()
    except RegistryError as problem:
        raise CommandError(f"Error logging in: {problem}") from problem
    _sink(call["token-sink-file"], token["SecretID"])
    return 0


def _bearer_token(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            token = file.read().strip()
    except OSError as problem:
        raise CommandError(file_problem(path, problem)) from problem
    except UnicodeDecodeError as problem:
        raise CommandError(f"{path}: the file is not UTF-8 text") from problem
    if not token:
        raise CommandError(f"No bearer token found in {path}")
    return token


def _sink(path: str, secret: str) -> None:
    """Keep the secret where only its user can read it."""
    try:
        with open(path, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(secret)
    except OSError as problem:
        reason = file_problem(path, problem)
        raise CommandError(f"Error writing token to file sink: {reason}") from problem


def logout(call: Invocation) -> int:
    try:
        call.client.request("POST", "/v1/acl/logout")
    except RegistryError as problem:
        raise CommandError(f"Error destroying token: {problem}") from problem
    say("Token destroyed")
    return 0


COMMANDS = {
    "login": Command(
        "login",
        "",
        "Trades a bearer token of an auth method for an ACL token, which goes into a file.",
        login,
        (
            Flag("bearer-token-file", "File that holds the bearer token.", default=""),
            Flag(
                "meta",
                "Metadata of the token; repeatable.",
                pair,
                repeat=True,
                metavar="key=value",
            ),
            Flag("method", "Name of the auth method.", default=""),
            Flag("token-sink-file", "File to write the token into.", default=""),
            Flag("type", "Accepted for compatibility; has no effect.", default=""),
        ),
    ),
    "logout": Command(
        "logout", "", "Destroys the token of this request, which must come from login.", logout
    ),
}
