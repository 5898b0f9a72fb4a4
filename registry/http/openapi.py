"""`/v1/openapi.json`: the API as an OpenAPI 3.1 document, made of the table that routes requests.

What a route takes and answers stands beside it (`registry.http.operations`). Added here is what
holds for every request: the rules of the rim, the agent's cache, and how a token is sent. A route
of a plugin that says nothing of itself is listed with the first line of its handler's docstring;
one of the core that says nothing, since it only refuses, is not listed.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import count, groupby
from typing import Any, Final, get_args, get_type_hints

import msgspec
from msgspec import UnsetType

from registry import COMPATIBLE_VERSION
from registry.http.api import (
    JSON_TYPE,
    ApiRequest,
    ApiResponse,
    Handler,
    Routes,
)
from registry.http.caching import CACHEABLE
from registry.http.operations import (
    NOTHING,
    TEXT_MEDIA,
    Answer,
    Operation,
    Parameter,
    Refusal,
)
from registry.http.options import CACHED, NAMESPACE, PRETTY, argument, shows
from registry.http.rim import BLOCKED, NAMESPACED, RESTRICTED
from registry.http.routing import Endpoint, Router

PATH: Final = "/v1/openapi.json"

#: Methods that the document lists; OPTIONS and the refusals of other methods go without saying.
_METHODS: Final = ("GET", "PUT", "POST", "DELETE")

_DESCRIPTION: Final = """\
Errors are plain text. A parameter that is only named counts as given. An argument in the path may \
hold any characters once they are escaped, slashes too. Many mistakes of a client are answered \
with 500, as clients of this API expect: the texts are listed with each operation."""

_HEADERS: Final[Mapping[str, tuple[str, Mapping[str, Any]]]] = {
    "X-Consul-Index": ("What the answer is as of.", {"type": "integer", "minimum": 0}),
    "X-Consul-KnownLeader": ("Whether there is a leader.", {"enum": ["true", "false"]}),
    "X-Consul-LastContact": ("Milliseconds since the leader was heard.", {"type": "integer"}),
    "X-Consul-ContentHash": ("For the next request's `hash`.", {"type": "string"}),
    "X-Consul-Reason": ("The state that the status stands for.", {"type": "string"}),
}

#: What the rim may answer to any request, and to one with an argument in its path.
_BY_RIM: Final = (
    Refusal(400, "…"),
    Refusal(403, BLOCKED),
    Refusal(403, RESTRICTED),
    Refusal(429, "Too many connections from this address: …"),
)
_BY_ROUTER: Final = (Refusal(301), Refusal(400))

_STATUS_NAMES: Final = {
    301: "The path is not clean; this is where it leads",
    400: "The request makes no sense",
    401: "Not supported",
    403: "Not allowed here",
    404: "There is none",
    409: "Something came in between",
    413: "Too large",
    415: "Not available in this form",
    429: "Too many connections",
    500: "Refused",
}


def routes_of(router: Router) -> Routes:
    """The route of the document over all that `router` serves when it is first asked for."""
    routes = Routes()
    made: list[bytes] = []

    @routes.get(
        PATH,
        Operation(
            summary="Describe this API",
            answers=shows({"type": "object"}, "An OpenAPI 3.1 document"),
        ),
    )
    async def openapi(request: ApiRequest) -> ApiResponse:
        if not made:
            made.append(await asyncio.to_thread(_encoded, router.endpoints()))
        return ApiResponse(200, made[0], JSON_TYPE, is_json=True)

    return routes


def _encoded(endpoints: Iterable[Endpoint]) -> bytes:
    return json.dumps(document(endpoints), separators=(",", ":")).encode()


def document(endpoints: Iterable[Endpoint]) -> dict[str, Any]:
    """The document as plain data."""
    forms = sorted(
        ((path, method, form) for path, method, form in forms_of(endpoints)),
        key=lambda item: (item[0], _METHODS.index(item[1])),
    )
    shapes = _Shapes(form for _, _, form in forms)
    shared = _Shared()
    paths = {
        path: {
            method.lower(): _operation(path, method, form, shapes, shared)
            for _, method, form in group
        }
        for path, group in groupby(forms, key=lambda item: item[0])
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "registry",
            "version": COMPATIBLE_VERSION,
            "description": _DESCRIPTION,
        },
        "servers": [{"url": "/"}],
        "security": [{}, {"token": []}, {"bearer": []}],
        "tags": [{"name": tag} for tag in sorted({_tag(path) for path in paths})],
        "paths": paths,
        "components": {
            "schemas": shapes.components,
            **shared.sections,
            "headers": {
                name: {"description": about, "schema": dict(schema)}
                for name, (about, schema) in _HEADERS.items()
            },
            "securitySchemes": {
                "token": {"type": "apiKey", "in": "header", "name": "X-Consul-Token"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
    }


class _Shared:
    """Parameters and refusals, each written once and referred to from then on."""

    def __init__(self) -> None:
        self.sections: dict[str, dict[str, Any]] = {"parameters": {}, "responses": {}}

    def refer(self, section: str, name: str, value: dict[str, Any]) -> dict[str, Any]:
        """A reference to `value`; what else has its name gets a number."""
        known = self.sections[section]
        names = (f"{name}-{number}" if number else name for number in count())
        free = next(each for each in names if known.get(each, value) == value)
        known[free] = value
        return {"$ref": f"#/components/{section}/{free}"}


def forms_of(endpoints: Iterable[Endpoint]) -> Iterator[tuple[str, str, Operation]]:
    """Path, method and operation, completed by what holds for all of its kind."""
    for endpoint in endpoints:
        for method in _METHODS:
            for form in endpoint.operations.get(method, ()):
                completed = _completed(endpoint.pattern, form)
                yield endpoint.pattern + form.path_template(), method, completed


def undescribed(pattern: str, handler: Handler) -> Operation:
    """What can be said of a plugin's route that says nothing of itself."""
    about = inspect.getdoc(handler) or f"Served by a plugin at {pattern}"
    rest = (argument("rest", "What follows."),) if pattern.endswith("/") else ()
    anything = (Answer({}, media=("*/*",)),)
    return Operation(summary=about.partition("\n")[0], path=rest, answers=anything)


def _completed(pattern: str, form: Operation) -> Operation:
    parameters, refusals = [*form.parameters, PRETTY], list(_BY_RIM)
    if pattern.startswith(NAMESPACED):
        parameters.append(NAMESPACE)
    if pattern in CACHEABLE and form.path_template().endswith(CACHEABLE[pattern]):
        parameters.append(CACHED)
    if form.path:
        refusals.extend(_BY_ROUTER)
    return msgspec.structs.replace(
        form, parameters=tuple(parameters), refusals=(*form.refusals, *refusals)
    )


def _tag(path: str) -> str:
    parts = path.split("/")
    return parts[2] if path.startswith("/v1/") and len(parts) > 2 else "root"


def _operation(
    path: str, method: str, form: Operation, shapes: _Shapes, shared: _Shared
) -> dict[str, Any]:
    words = [part.strip("{}") for part in path.split("/")]
    shown: dict[str, Any] = {
        "operationId": "_".join([method.lower(), *(word for word in words if word)]),
        "summary": form.summary,
        "tags": [_tag(path)],
        "parameters": [_parameter(each, shared) for each in form.all_parameters()],
        "responses": _responses(form, shapes, shared),
    }
    if form.about:
        shown["description"] = form.about
    if form.body is not None:
        shown["requestBody"] = {
            "description": form.body.about,
            "required": form.body.required,
            "content": {form.body.media: {"schema": shapes.schema(form.body.shape)}},
        }
    return shown


def _parameter(parameter: Parameter, shared: _Shared) -> dict[str, Any]:
    schema = dict(parameter.schema)
    shown = {
        "name": parameter.name,
        "in": parameter.place,
        "description": parameter.about,
        "required": parameter.required,
        "schema": {"type": "array", "items": schema} if parameter.repeated else schema,
    }
    if parameter.place == "query" and "" in schema.get("enum", ()):
        shown["allowEmptyValue"] = True
    return shared.refer("parameters", parameter.name, shown)


def _responses(form: Operation, shapes: _Shapes, shared: _Shared) -> dict[str, Any]:
    found: dict[str, dict[str, Any]] = {}
    for answer in form.answers:
        shown = found.setdefault(str(answer.status), {"description": answer.about})
        if answer.headers:
            shown["headers"] = {
                name: {"$ref": f"#/components/headers/{name}"} for name in answer.headers
            }
        if answer.shape is not NOTHING:
            content = shown.setdefault("content", {})
            for media in answer.media:
                schema = shapes.schema(answer.shape)
                known = content.get(media)
                content[media] = {
                    "schema": {"anyOf": [known["schema"], schema]} if known else schema
                }
    for status, refusals in _by_status(form.all_refusals()).items():
        known = str(status)
        if known in found:
            _add_refusals(found[known], status, refusals)
        else:
            refused: dict[str, Any] = {}
            _add_refusals(refused, status, refusals)
            found[known] = shared.refer("responses", known, refused)
    return dict(sorted(found.items()))


def _by_status(refusals: Iterable[Refusal]) -> dict[int, list[Refusal]]:
    found: dict[int, list[Refusal]] = {}
    for refusal in refusals:
        found.setdefault(refusal.status, []).append(refusal)
    return found


def _add_refusals(shown: dict[str, Any], status: int, refusals: list[Refusal]) -> None:
    """The texts; from 500 up they are all that there are, so they are the schema, too."""
    texts = [refusal.text for refusal in refusals if refusal.text not in ("", "…")]
    listed = "".join(f"\n- `{text}`" for text in texts)
    shown.setdefault("description", _STATUS_NAMES.get(status, "Refused"))
    shown["description"] += listed and f":\n{listed}"
    if any(refusal.text for refusal in refusals):
        schema: dict[str, Any] = {"type": "string"}
        if status >= 500:
            patterns = "|".join(dict.fromkeys(refusal.pattern() for refusal in refusals))
            schema["pattern"] = f"^({patterns})$"
        shown.setdefault("content", {}).setdefault(TEXT_MEDIA, {"schema": schema})


class _Shapes:
    """The schemas of all types that operations name."""

    def __init__(self, forms: Iterable[Operation]) -> None:
        named: list[Any] = []
        for form in forms:
            shapes = [answer.shape for answer in form.answers]
            shapes.extend([form.body.shape] if form.body else [])
            named.extend(shape for shape in shapes if not _is_schema(shape) and shape not in named)
        schemas, self.components = msgspec.json.schema_components(
            named, ref_template="#/components/schemas/{name}"
        )
        self._known = list(zip(named, schemas, strict=True))
        for struct in _structs(msgspec.inspect.multi_type_info(named)):
            _release_unset(self.components[struct.__name__], struct)

    def schema(self, shape: Any) -> dict[str, Any]:
        if _is_schema(shape):
            return dict(shape)
        return dict(next(schema for known, schema in self._known if known == shape))


def _structs(info: Any) -> set[type[msgspec.Struct]]:
    """The structs that a description of types, or a sequence of them, leads to."""
    found: set[type[msgspec.Struct]] = set()
    left = [info]
    while left:
        item = left.pop()
        if isinstance(item, msgspec.inspect.StructType):
            if item.cls in found:
                continue
            found.add(item.cls)
        if isinstance(item, (list, tuple)):
            left.extend(item)
        elif isinstance(item, msgspec.Struct):
            left.extend(getattr(item, name) for name in item.__struct_fields__)
    return found


def _release_unset(schema: dict[str, Any], struct: type[msgspec.Struct]) -> None:
    """A field that may be UNSET is not always there, although it has no default."""
    hints = get_type_hints(struct)
    spelt = zip(struct.__struct_fields__, struct.__struct_encode_fields__, strict=True)
    free = {shown for name, shown in spelt if UnsetType in get_args(hints[name])}
    schema["required"] = [name for name in schema.get("required", ()) if name not in free]


def _is_schema(shape: Any) -> bool:
    return shape is NOTHING or isinstance(shape, Mapping)
