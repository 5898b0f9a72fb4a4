"""Options that all tests share."""

from __future__ import annotations

import pytest

pytest_plugins = ["registry.testing.pytest_plugin"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite",
        action="store_true",
        help="write the transcripts in testdata/ anew with what the code does now",
    )
