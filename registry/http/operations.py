"""What an operation of the API takes and answers, as `/v1/openapi.json` tells it.

A route's table entry carries one `Operation` for each form that its path has. What several
operations share, parameters above all, is declared once in `registry.http.options`; a parameter
brings along the refusals that it can cause.

A text of a `Refusal` may hold "…" for anything: `unknown service ID: …`. For statuses from 500 up
the texts are a promise: no other text comes with them. Consul's servers answer 500 to many a
mistake of the client, and clients look for these texts, so they are kept; whatever else we refuse
has a status below 500.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

JSON_MEDIA: Final = "application/json"
TEXT_MEDIA: Final = "text/plain"
BYTES_MEDIA: Final = "application/octet-stream"

Schema = Mapping[str, Any]

TEXT: Final[Schema] = {"type": "string"}
#: A parameter that says all by being there.
PRESENT: Final[Schema] = {"type": "string", "enum": [""]}
BOOLEAN: Final[Schema] = {"type": "string", "enum": ["true", "false", "1", "0"]}
UINT64: Final[Schema] = {"type": "integer", "minimum": 0, "maximum": (1 << 64) - 1}
DURATION: Final[Schema] = {
    "type": "string",
    "pattern": r"^([0-9]{1,4}(\.[0-9]{1,3})?(ns|us|ms|s|m|h))+$",
    "examples": ["10s"],
}
BYTES: Final[Schema] = {"type": "string", "format": "binary"}

#: The shape of an answer without a body.
NOTHING: Final = None


_SYNTAX: Final = re.compile(r"[\\^$.|?*+()\[\]{}]")


class Refusal(msgspec.Struct, frozen=True):
    """A status and the text that comes with it; no text: without a body."""

    status: int
    text: str = ""

    def pattern(self) -> str:
        """The text as a regular expression without its anchors, in the dialect of JSON Schema."""
        return r"[\s\S]*".join(_SYNTAX.sub(r"\\\g<0>", part) for part in self.text.split("…"))


class Parameter(msgspec.Struct, frozen=True):
    """A parameter of the query, a header, or a part of the path."""

    name: str
    about: str
    schema: Schema = msgspec.field(default_factory=lambda: TEXT)
    place: str = "query"
    repeated: bool = False
    required: bool = False
    refusals: tuple[Refusal, ...] = ()


class Body(msgspec.Struct, frozen=True):
    """What a request carries: `shape` is a type or a schema."""

    shape: Any
    about: str = ""
    media: str = JSON_MEDIA
    required: bool = True
    refusals: tuple[Refusal, ...] = ()


class Answer(msgspec.Struct, frozen=True):
    """An answer that is no refusal: `shape` is a type or a schema, in each of the media."""

    shape: Any = NOTHING
    about: str = "OK"
    status: int = 200
    media: tuple[str, ...] = (JSON_MEDIA,)
    headers: tuple[str, ...] = ()


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One form of a route.

    `path` is what follows a pattern that ends in "/": its parameters and the text between them.
    """

    summary: str
    path: tuple[Parameter | str, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    body: Body | None = None
    answers: tuple[Answer, ...] = (Answer(about="Done"),)
    refusals: tuple[Refusal, ...] = ()
    about: str = ""

    def path_template(self) -> str:
        return "".join(part if isinstance(part, str) else f"{{{part.name}}}" for part in self.path)

    def all_parameters(self) -> list[Parameter]:
        """Those of the path first."""
        in_path = [part for part in self.path if isinstance(part, Parameter)]
        return [*in_path, *self.parameters]

    def all_refusals(self) -> list[Refusal]:
        """Its own and those of its parameters and its body, each once."""
        found = list(self.refusals)
        for parameter in self.all_parameters():
            found.extend(parameter.refusals)
        if self.body is not None:
            found.extend(self.body.refusals)
        return list(dict.fromkeys(found))


def matches(refusals: Iterable[Refusal], status: int, text: str) -> bool:
    """Whether an answer is one of the refusals, text and all."""
    return any(
        refusal.status == status and re.fullmatch(refusal.pattern(), text) for refusal in refusals
    )
