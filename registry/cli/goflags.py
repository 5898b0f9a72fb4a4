"""Flags of commands: the parser that agent and command line share, under the CLI's name."""

from __future__ import annotations

from registry.goflags import (
    Flag,
    FlagError,
    HelpWanted,
    ParsedFlags,
    boolean,
    flag_help,
    help_text,
    integer,
    parse_flags,
    text,
    unsigned,
)

__all__ = [
    "Flag",
    "FlagError",
    "HelpWanted",
    "ParsedFlags",
    "boolean",
    "flag_help",
    "help_text",
    "integer",
    "parse_flags",
    "text",
    "unsigned",
]
