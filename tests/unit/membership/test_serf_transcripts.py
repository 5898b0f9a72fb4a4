"""What the Serf layer does, told as transcripts of small pools on a virtual clock.

Commands: configure SETTING=N | start NAME [keys=ab] TAG=VALUE | join A B | sync A B | run MS |
kill A | leave A | force-leave A B [prune] | event A NAME PAYLOAD | tags A TAG=VALUE | members A |
query A NAME [ack] [nodes=] [tag=T~EXPR] [relay=N] | respond A PAYLOAD |
keys A install|use|remove|list KEY | persisted A TOKEN ERROR |
conflict A B PORT | believe A B PORT | refused A
"""

from __future__ import annotations

from pathlib import Path

import pytest

from registry.state.regexp import compile_pattern
from registry.testing.serf_pool import SerfTranscript
from registry.testing.transcripts import play

TRANSCRIPTS = sorted((Path(__file__).parent / "testdata" / "serf").glob("*.txt"))


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcript(path: Path, request: pytest.FixtureRequest) -> None:
    rewrite = request.config.getoption("--rewrite")
    play(path, SerfTranscript(compile_pattern), rewrite=rewrite)
