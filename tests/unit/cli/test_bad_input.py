"""Command lines and files that make no sense: one line on stderr, and never a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry.testing.command_line import Run


@pytest.mark.parametrize(
    ("words", "told"),
    [
        pytest.param(
            ["members", "-http-addr=http://["], "not an address of an agent", id="address"
        ),
        pytest.param(["members", "-token=\udcff"], "the ACL token has characters", id="token"),
        pytest.param(
            ["members", "-token-file=bytes"], "Error loading token file: bytes", id="token file"
        ),
        pytest.param(
            ["services", "register", "bytes"], "bytes: the file is not UTF-8 text", id="register"
        ),
        pytest.param(
            ["services", "deregister", "bytes"],
            "bytes: the file is not UTF-8 text",
            id="deregister",
        ),
        pytest.param(
            ["login", "-method=m", "-token-sink-file=s", "-bearer-token-file=bytes"],
            "bytes: the file is not UTF-8 text",
            id="login",
        ),
        *(
            pytest.param(["catalog", what, "x"], "Too many arguments (expected 0, got 1)", id=what)
            for what in ("datacenters", "nodes", "services")
        ),
    ],
)
def test_refusals(cli: Run, tmp_path: Path, words: list[str], told: str) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    outcome = cli(*words)
    assert outcome.status == 1
    assert outcome.out == ""
    assert told in outcome.err
    assert outcome.err.count("\n") == 1
