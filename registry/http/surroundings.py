"""Plugins around the API: who makes a request, and what is done before and after its handler."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from msgspec.structs import replace

from registry.hooks import (
    AccessDenied,
    AuthMethod,
    HttpAnswer,
    HttpCall,
    HttpMiddleware,
    Identity,
)
from registry.http.api import ApiRequest, ApiResponse, HttpError

Handle = Callable[[], Awaitable[ApiResponse]]


class Surroundings:
    """The auth methods and the middleware of one agent, which their guards have made async."""

    def __init__(self, methods: Sequence[AuthMethod], middleware: Sequence[HttpMiddleware]) -> None:
        self._methods = list(methods)
        self._middleware = list(middleware)

    def __bool__(self) -> bool:
        return bool(self._methods or self._middleware)

    async def answer(self, request: ApiRequest, query: bytes, handle: Handle) -> ApiResponse:
        """The handler's answer, or what is given in its place. `handle` raises nothing, since an
        error is an answer too. Raises `HttpError` for who is denied access."""
        call = HttpCall(
            method=request.method,
            path=request.path,
            query=query.decode("latin-1"),
            headers=dict(request.headers),
            client=request.client[0],
        )
        try:
            call = replace(call, identity=await self._identity(call))
            around = [each for each in self._middleware if call.path.startswith(each.prefix)]
            answer, passed = await _before(around, call)
        except AccessDenied as denied:
            raise HttpError(denied.status, denied.text) from denied
        response = _response(answer) if answer is not None else await handle()
        try:
            return await _after(passed, call, response)
        except AccessDenied as denied:
            raise HttpError(denied.status, denied.text) from denied

    async def _identity(self, call: HttpCall) -> Identity | None:
        for method in self._methods:
            identity: Identity | None = await method.authenticate(call)
            if identity is not None:
                return identity
        return None


async def _before(
    around: Sequence[HttpMiddleware], call: HttpCall
) -> tuple[HttpAnswer | None, list[HttpMiddleware]]:
    """An answer that one of them gave, and those that the request has come through."""
    passed = []
    for each in around:
        passed.append(each)
        if each.before is not None and (answer := await each.before(call)) is not None:
            return answer, passed
    return None, passed


async def _after(
    passed: Sequence[HttpMiddleware], call: HttpCall, response: ApiResponse
) -> ApiResponse:
    for each in reversed(passed):
        if each.after is None or response.stream is not None:
            continue
        shown = HttpAnswer(
            status=response.status,
            body=response.body,
            content_type=response.content_type,
            headers=tuple((name, str(value)) for name, value in response.headers),
        )
        changed: Any = await each.after(call, shown)
        if changed is not None:
            response = _response(changed, is_json=response.is_json)
    return response


def _response(answer: HttpAnswer, *, is_json: bool = False) -> ApiResponse:
    return ApiResponse(
        status=answer.status,
        body=answer.body,
        content_type=answer.content_type,
        headers=list(answer.headers),
        is_json=is_json and answer.content_type.startswith("application/json"),
    )
