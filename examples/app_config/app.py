"""An application that lives by its configuration: fetched once at its start, then followed.

    registry agent -dev &
    registry kv put app/greeting hello
    python examples/app_config/app.py app/ &
    registry kv put app/greeting 'good evening'     # printed at once, without polling

Every change of a key below the prefix prints the whole configuration as one line of JSON.
`--changes N` ends after that many lines, for scripts.
"""

from __future__ import annotations

import argparse
import base64
import json
from collections.abc import Iterator

from registry.client import Client


def configurations(client: Client, prefix: str) -> Iterator[dict[str, str]]:
    """The configuration below `prefix`, at once and after every change of it."""
    index, last = 0, None
    while True:
        answer = client.get(
            f"/v1/kv/{prefix}", {"recurse": True, "index": index or None}, accept=(200, 404)
        )
        # An index that went back means that the store was restored: begin anew.
        index = answer.index if answer.index >= index else 0
        entries = answer.json() if answer.status == 200 else []
        configuration = {
            entry["Key"].removeprefix(prefix): base64.b64decode(entry["Value"] or "").decode()
            for entry in entries
        }
        # Waking without a change is allowed; an application need not notice.
        if configuration != last:
            last = configuration
            yield configuration


def main() -> None:
    parser = argparse.ArgumentParser(description="Print a configuration whenever it changes.")
    parser.add_argument("prefix", help="keys below this prefix, such as app/")
    parser.add_argument("--changes", type=int, default=0, help="end after so many lines")
    arguments = parser.parse_args()
    for number, configuration in enumerate(configurations(Client(), arguments.prefix), 1):
        print(json.dumps(configuration, sort_keys=True), flush=True)
        if number == arguments.changes:
            return


if __name__ == "__main__":
    main()
