"""`/v1/history/`, `/v1/history-diff/` and `/v1/history-rollback/`."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Any, TypedDict
from urllib.parse import quote

from httpx import AsyncClient, HTTPError, Response

from registry.hooks import HttpRoute, PluginContext
from registry.http.api import ApiRequest, ApiResponse, HttpError, json_response
from registry.http.operations import (
    BYTES,
    BYTES_MEDIA,
    PRESENT,
    UINT64,
    Answer,
    Operation,
    Parameter,
    Refusal,
)

from .keeper import keeper
from .rollback import OPERATIONS_MAX, Step, plan, read_present, transactions
from .store import DifferencePage, HistoryStore, NotKept, Page, Version

LIMIT, LIMIT_MAX = 50, 1000

#: A reason of the registry may be so long; ours begins with what was rolled back.
REASON_CHARACTERS_MAX = 1024

#: Values are anybody's: a browser must take none for a page.
_RAW_HEADERS = [("X-Content-Type-Options", "nosniff"), ("Content-Security-Policy", "sandbox")]


class VersionView(TypedDict):
    """A version. `Time` is null when nobody saw the write, `Value` (base64) for a deletion."""

    Key: str
    Index: int
    Time: str | None
    Deleted: bool
    Value: str | None
    Flags: int
    Session: str
    Client: str
    Reason: str


class HistoryView(TypedDict):
    """Versions, newest first. `Next` is the `to` of the next page, null at the end."""

    Key: str
    Versions: list[VersionView]
    Next: int | None


class DifferenceView(TypedDict):
    """A key at both indexes, null where it was not there."""

    Key: str
    Before: VersionView | None
    After: VersionView | None


class DifferencesView(TypedDict):
    """What differs. `Next` is the `start` of the next page, null at the end."""

    From: int
    To: int
    Differences: list[DifferenceView]
    Next: str | None


class StepView(TypedDict):
    """What becomes of a key: "set" to the version of an index, or "delete"."""

    Key: str
    Verb: str
    Index: int | None


class RollbackView(TypedDict):
    """What was done, or with `dry-run` would be, in how many transactions."""

    To: int
    Operations: list[StepView]
    Transactions: int
    Done: bool


# What requests say


def _store() -> tuple[PluginContext, HistoryStore]:
    own = keeper()
    if own.context is not None and not own.context.is_server:
        raise HttpError(501, "this agent is no server and keeps no history; ask a server")
    if own.context is None or own.store is None:
        raise HttpError(503, "the history is not open")
    return own.context, own.store


def _key(request: ApiRequest) -> bytes:
    if not request.argument and "recurse" not in request.query:
        raise HttpError(400, "Missing key name")
    dc = request.query.get("dc")
    if dc and dc.lower() != request.agent.datacenter.lower():
        raise HttpError(400, "each datacenter keeps its own history; ask one of its servers")
    return request.argument.encode("utf-8", "surrogateescape")


def _number(request: ApiRequest, name: str, default: int | None = None) -> int:
    text = request.query.get(name)
    if not text and default is not None:
        return default
    if not (text.isascii() and text.isdigit()) or int(text) >= 1 << 63:
        raise HttpError(
            400, f"{name} must be a number, not {text!r}" if text else f"Missing {name}"
        )
    return int(text)


def _limit(request: ApiRequest) -> int:
    return max(1, min(_number(request, "limit", LIMIT), LIMIT_MAX))


# Showing versions


async def show(request: ApiRequest) -> ApiResponse:
    """The versions of a key, newest first; with `raw` the value of one."""
    _, store = _store()
    key = _key(request)
    if "at" in request.query or "raw" in request.query:
        return _show_one(request, store, key)
    try:
        page = store.versions(
            key,
            from_index=_number(request, "from", 0),
            to_index=_number(request, "to", store.place.index),
            limit=_limit(request),
        )
    except NotKept as problem:
        raise HttpError(400, str(problem)) from None
    return json_response(_page_view(request.argument, page))


def _show_one(request: ApiRequest, store: HistoryStore, key: bytes) -> ApiResponse:
    index = _number(request, "at", store.place.index)
    try:
        version = store.at(key, index)
    except NotKept as problem:
        raise HttpError(400, str(problem)) from None
    if version is None:
        raise HttpError(404, f"there was no such key at index {index}")
    if "raw" not in request.query:
        return json_response(_version_view(version))
    headers = [("X-Registry-Version", str(version.index)), *_RAW_HEADERS]
    return ApiResponse(200, version.value or b"", BYTES_MEDIA, headers)


def _page_view(name: str, page: Page) -> HistoryView:
    versions = [_version_view(version) for version in page.versions]
    return {"Key": _text(name), "Versions": versions, "Next": page.next_index}


def _version_view(version: Version) -> VersionView:
    value = version.value
    return {
        "Key": version.key.decode("utf-8", "replace"),
        "Index": version.index,
        "Time": time_text(version.time_ms) if version.time_ms is not None else None,
        "Deleted": version.is_deletion,
        "Value": base64.b64encode(value).decode() if value is not None else None,
        "Flags": version.flags,
        "Session": version.session,
        "Client": version.client,
        "Reason": version.reason,
    }


def _text(name: str) -> str:
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def time_text(time_ms: int) -> str:
    """A time as the API shows it, in UTC."""
    moment = datetime.fromtimestamp(time_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


# Comparing


async def compare(request: ApiRequest) -> ApiResponse:
    """What differs between two indexes, in a key or below a prefix."""
    _, store = _store()
    key = _key(request)
    from_index = _number(request, "from")
    to_index = _number(request, "to", store.place.index)
    try:
        if "recurse" in request.query:
            page = store.tree_difference(
                key,
                from_index,
                to_index,
                start_key=request.query.get_bytes("start"),
                limit=_limit(request),
            )
        else:
            page = store.difference(key, from_index, to_index)
    except NotKept as problem:
        raise HttpError(400, str(problem)) from None
    return json_response(_differences_view(from_index, to_index, page))


def _differences_view(from_index: int, to_index: int, page: DifferencePage) -> DifferencesView:
    differences: list[DifferenceView] = [
        {
            "Key": each.key.decode("utf-8", "replace"),
            "Before": _version_view(each.before) if each.before is not None else None,
            "After": _version_view(each.after) if each.after is not None else None,
        }
        for each in page.differences
    ]
    following = page.next_key.decode("utf-8", "replace") if page.next_key is not None else None
    return {"From": from_index, "To": to_index, "Differences": differences, "Next": following}


# Rolling back


async def roll_back(request: ApiRequest) -> ApiResponse:
    """Put a key, or all below a prefix, back to what it was at an index."""
    context, store = _store()
    key = _key(request)
    to_index = _number(request, "to")
    recurse = "recurse" in request.query
    reason = _reason(request, to_index)
    agent = _Agent(context.client, request)
    present = read_present(await agent.read(key, recurse=recurse))
    try:
        if recurse:
            then = store.tree_at(key, to_index)
        else:
            version = store.at(key, to_index)
            then = {} if version is None else {key: version}
    except NotKept as problem:
        raise HttpError(400, str(problem)) from None
    wanted = {_utf8(name): version for name, version in then.items()}
    for name, entry in present.items():
        # Of an index with many writes we may have been told only a part yet.
        if entry.modify_index == to_index and (
            name not in wanted or wanted[name].modify_index != to_index
        ):
            raise HttpError(503, "the history is a little behind; try again")
    steps = plan(present, wanted)
    bytes_max = int(context.config["limits"]["txn_max_req_len"])
    parts = transactions(steps, bytes_max)
    if len(parts) > 1 and "chunked" not in request.query:
        raise HttpError(
            400,
            f"{len(steps)} keys differ, more than one transaction takes ({OPERATIONS_MAX} keys,"
            f" {bytes_max} bytes); narrow the prefix, or allow several transactions with chunked,"
            " which are not all or nothing",
        )
    is_done = "dry-run" not in request.query
    if is_done:
        done = 0
        for part in parts:
            await agent.carry_out(part, reason, bytes_max, done, len(steps))
            done += len(part)
    answer: RollbackView = {
        "To": to_index,
        "Operations": [_step_view(step) for step in steps],
        "Transactions": len(parts),
        "Done": is_done,
    }
    return json_response(answer)


def _step_view(step: Step) -> StepView:
    if step.version is None:
        return {"Key": step.key, "Verb": "delete", "Index": None}
    return {"Key": step.key, "Verb": "set", "Index": step.version.index}


def _reason(request: ApiRequest, to_index: int) -> str:
    """What the writes will say: the registry sees us as their client, so it names the real one."""
    given = request.query.get("reason")
    reason = f"rollback to index {to_index} by {request.client[0] or 'a local client'}"
    reason = f"{reason}: {given}" if given else reason
    if len(reason) > REASON_CHARACTERS_MAX:
        over = len(reason) - REASON_CHARACTERS_MAX
        raise HttpError(400, f"reason is longer than {len(given) - over} characters")
    return reason


def _utf8(key: bytes) -> str:
    try:
        return key.decode()
    except UnicodeDecodeError:
        name = key.decode("utf-8", "replace")
        raise HttpError(400, f"a transaction cannot name {name}, which is no UTF-8") from None


class _Agent:
    """Asks the agent on behalf of whoever asked us, with what they authenticated themselves by."""

    def __init__(self, client: AsyncClient, request: ApiRequest) -> None:
        self._client = client
        names = ("authorization", "x-consul-token", "cookie")
        self._headers = {name: request.headers[name] for name in names if name in request.headers}
        if token := request.query.get("token"):
            self._headers["x-consul-token"] = token

    async def read(self, key: bytes, *, recurse: bool) -> list[dict[str, Any]]:
        """The entries there are now, as no older than this request."""
        parameters = {"consistent": "", **({"recurse": ""} if recurse else {})}
        answer = await self._ask("GET", _kv_path(key), parameters)
        if answer.status_code == 404:
            return []
        entries: list[dict[str, Any]] = _accepted(answer).json()
        return entries

    async def carry_out(
        self, steps: list[Step], reason: str, bytes_max: int, done: int, count: int
    ) -> None:
        """One transaction. HttpError 409 when a key moved."""
        (first, *more), version = steps, steps[0].version
        if not more and version is not None and first.bytes_max() > bytes_max:
            # One value that does not fit in a transaction; the write of one key is one anyway.
            parameters = {"cas": first.cas, "flags": version.flags, "reason": reason}
            path = _kv_path(first.key.encode())
            answer = await self._ask("PUT", path, parameters, content=version.value)
            is_done = _accepted(answer, done, count).json() is True
        else:
            operations = [step.operation() for step in steps]
            answer = await self._ask("PUT", "/v1/txn", {"reason": reason}, json=operations)
            is_done = answer.status_code != 409
            if is_done:
                _accepted(answer, done, count)
        if not is_done:
            raise HttpError(409, f"a key was written meanwhile; {_state(done, count)}; try again")

    async def _ask(self, method: str, path: str, parameters: Any, **more: Any) -> Response:
        try:
            return await self._client.request(
                method, path, params=parameters, headers=self._headers, **more
            )
        except HTTPError as problem:
            raise HttpError(503, f"the agent does not answer: {problem!r}") from problem


def _accepted(answer: Response, done: int = 0, count: int = 0) -> Response:
    """The answer unless it is a refusal, which is passed on."""
    if answer.status_code == 200:
        return answer
    tail = f" ({_state(done, count)})" if done else ""
    raise HttpError(answer.status_code, answer.text + tail)


def _state(done: int, count: int) -> str:
    return f"{done} of {count} keys were rolled back" if done else "nothing was rolled back"


def _kv_path(key: bytes) -> str:
    return "/v1/kv/" + quote(key, safe="/")


# What the API's document says

_KEY = Parameter("key", "The key.", place="path", required=True)
_PREFIX = Parameter("key", "The key, or the prefix of `recurse`.", place="path", required=True)
_LIMIT = Parameter("limit", f"Items of a page, {LIMIT} if left out, {LIMIT_MAX} at most.", UINT64)
_RECURSE = Parameter("recurse", "All keys that begin so.", PRESENT)
_FROM = Parameter("from", "The index to compare.", UINT64, required=True)
_NO_HISTORY = (
    Refusal(400, "…"),
    Refusal(501, "this agent is no server and keeps no history; ask a server"),
    Refusal(503, "the history is not open"),
)

_SHOW = Operation(
    summary="Show the versions of a key",
    path=(_KEY,),
    parameters=(
        Parameter("from", "The lowest index of a version to show.", UINT64),
        Parameter("to", "The highest index of a version to show.", UINT64),
        _LIMIT,
        Parameter("at", "Only the version in force at this index.", UINT64),
        Parameter("raw", "The bytes of that version's value, and nothing else.", PRESENT),
    ),
    answers=(
        Answer(HistoryView, "Versions, newest first"),
        Answer(BYTES, "With `raw`", media=(BYTES_MEDIA,), headers=("X-Registry-Version",)),
    ),
    refusals=(*_NO_HISTORY, Refusal(404, "there was no such key at index …")),
)

_COMPARE = Operation(
    summary="Compare a key, or all keys below a prefix, at two indexes",
    path=(_PREFIX,),
    parameters=(
        _FROM,
        Parameter("to", "The index to compare with; the latest if left out.", UINT64),
        _RECURSE,
        Parameter("start", "With `recurse`, the key to begin at: `Next` of a page."),
        _LIMIT,
    ),
    answers=(Answer(DifferencesView),),
    refusals=_NO_HISTORY,
)

_ROLL_BACK = Operation(
    summary="Put a key, or all keys below a prefix, back to what they were at an index",
    path=(_PREFIX,),
    parameters=(
        Parameter("to", "The index to go back to.", UINT64, required=True),
        _RECURSE,
        Parameter("reason", "Why; kept with the new versions.", {"type": "string"}),
        Parameter("dry-run", "Only say what would be done.", PRESENT),
        Parameter("chunked", "Allow several transactions, which are not all or nothing.", PRESENT),
    ),
    answers=(Answer(RollbackView),),
    refusals=(
        *_NO_HISTORY,
        Refusal(409, "a key was written meanwhile; …; try again"),
        Refusal(503, "the history is a little behind; try again"),
        Refusal(503, "the agent does not answer: …"),
    ),
)


def routes() -> list[HttpRoute]:
    return [
        HttpRoute(method="GET", pattern="/v1/history/", handler=show, operations=(_SHOW,)),
        HttpRoute(
            method="GET", pattern="/v1/history-diff/", handler=compare, operations=(_COMPARE,)
        ),
        HttpRoute(
            method="PUT",
            pattern="/v1/history-rollback/",
            handler=roll_back,
            operations=(_ROLL_BACK,),
        ),
    ]
