"""The parameters that many operations take, in groups, each declared once."""

from __future__ import annotations

from typing import Any, Final

from registry.http.cache_control import INVALID_CACHE_CONTROL
from registry.http.errors import NO_LEADER
from registry.http.filter import TOO_LARGE
from registry.http.operations import (
    BOOLEAN,
    DURATION,
    JSON_MEDIA,
    PRESENT,
    UINT64,
    Answer,
    Body,
    Parameter,
    Refusal,
)
from registry.http.params import NO_NAMESPACES, NO_PATH

# Everywhere

PRETTY: Final = Parameter("pretty", "Indent the JSON of the answer.", PRESENT)
NAMESPACE: Final = Parameter(
    "ns",
    "There are no namespaces: anything but nothing is refused.",
    PRESENT,
    refusals=(Refusal(400, f'Bad request: Invalid query parameter: "ns" - {NO_NAMESPACES}'),),
)
DATACENTER: Final = Parameter(
    "dc",
    "The datacenter that is asked, by default the agent's own.",
    {"type": "string", "examples": ["dc1"]},
    refusals=(Refusal(500, NO_PATH), Refusal(500, NO_LEADER)),
)

# Reads

INDEX: Final = Parameter(
    "index",
    "Wait until the answer's `X-Consul-Index` is higher than this; 0 does not wait.",
    UINT64,
    refusals=(Refusal(400, "Invalid index"),),
)
WAIT: Final = Parameter(
    "wait",
    "How long to wait at most, as in `10s` or `5m`.",
    DURATION,
    refusals=(Refusal(400, "Invalid wait time"),),
)
STALE: Final = Parameter("stale", "Any server may answer, with what it knows.", PRESENT)
CONSISTENT: Final = Parameter(
    "consistent",
    "The leader makes sure that it still leads before it answers.",
    PRESENT,
    refusals=(Refusal(400, "Cannot specify ?… with ?consistent, conflicting semantics."),),
)
LEADER: Final = Parameter("leader", "The leader answers, whatever the agent prefers.", PRESENT)
MAX_STALE: Final = Parameter(
    "max_stale",
    "As `stale`, but the answer may be no older than this.",
    DURATION,
    refusals=(Refusal(400, 'Invalid max_stale value "…"'),),
)
CACHED: Final = Parameter(
    "cached", "Answer from the agent's cache; `X-Cache` tells whether it had it.", PRESENT
)
CACHE_CONTROL: Final = Parameter(
    "Cache-Control",
    "Limits on a cached answer: `max-age`, `must-revalidate`, `stale-if-error`.",
    {"type": "string", "enum": ["max-age=60", "must-revalidate", "max-age=1, stale-if-error=9"]},
    place="header",
    refusals=(Refusal(400, INVALID_CACHE_CONTROL),),
)

BLOCKING: Final = (INDEX, WAIT)
CONSISTENCY: Final = (STALE, CONSISTENT, LEADER, MAX_STALE, CACHE_CONTROL)
#: What every read of replicated state takes.
READ: Final = (DATACENTER, *BLOCKING, *CONSISTENCY)

# Listings

FILTER: Final = Parameter(
    "filter",
    'Keep the items for which this expression holds, as in `ServicePort == 80 and "v1" in Tags`.',
    refusals=(
        Refusal(400, f"{TOO_LARGE}: …"),
        Refusal(500, "Failed to create boolean expression evaluator: …"),
    ),
)
NEAR: Final = Parameter(
    "near", "Sort by round-trip time from this node; `_agent` is the one that answers."
)
NODE_META: Final = Parameter(
    "node-meta", "Keep nodes with this metadata, `key:value`.", repeated=True
)
TAG: Final = Parameter("tag", "Keep services with this tag.", repeated=True)
PASSING: Final = Parameter(
    "passing",
    "Keep instances of which every check passes; alone or with a boolean.",
    {"type": "string", "enum": ["", "true", "false"]},
    refusals=(Refusal(400, "Invalid value for ?passing"),),
)

# Writes

CAS: Final = Parameter(
    "cas",
    "Write only if this is the index of the last change; 0: only if there is nothing yet.",
    UINT64,
    refusals=(Refusal(500, 'strconv.ParseUint: parsing "…": …'),),
)
ENABLE: Final = Parameter(
    "enable",
    "Whether to begin maintenance or to end it.",
    BOOLEAN,
    required=True,
    refusals=(
        Refusal(400, "Missing value for enable"),
        Refusal(400, 'Invalid value for enable: "…"'),
    ),
)
REASON: Final = Parameter("reason", "Why, for those who look at the checks.")

NOT_JSON: Final = (Refusal(400, "Request decode failed: …"), Refusal(413, "… too large…"))

#: Headers of reads, by name; `X-Consul-Index` goes into the next request's `index`.
INDEX_HEADERS: Final = ("X-Consul-Index", "X-Consul-KnownLeader", "X-Consul-LastContact")


def argument(name: str, about: str, missing: str = "", **more: Any) -> Parameter:
    """A part of the path; `missing` is what is said when it is not there."""
    refusals = (Refusal(400, missing),) if missing else ()
    return Parameter(name, about, place="path", required=True, refusals=refusals, **more)


def shows(shape: Any, about: str = "OK") -> tuple[Answer, ...]:
    """JSON."""
    return (Answer(shape, about),)


def reads(shape: Any, about: str = "OK") -> tuple[Answer, ...]:
    """JSON with the index to go on from."""
    return (Answer(shape, about, headers=INDEX_HEADERS),)


def json_body(shape: Any, about: str = "", *, required: bool = True) -> Body:
    return Body(shape, about, JSON_MEDIA, required, NOT_JSON)
