"""HTTP handlers without a server: requests in, finished answers out, through the rim's rules."""

from __future__ import annotations

from typing import Any

import msgspec

from registry.agent.facade import AgentFacade
from registry.http.api import ApiResponse, HttpError, Routes
from registry.http.rim import Incoming, Rim
from registry.http.routing import Router


class Handlers:
    """Families of handlers over a facade."""

    def __init__(self, facade: AgentFacade, *tables: Routes) -> None:
        self.facade = facade
        self._rim = Rim(facade, Router(tables))

    async def request(
        self,
        method: str,
        url: str,
        body: bytes = b"",
        *,
        json: Any = None,
        headers: dict[str, str] | None = None,
    ) -> ApiResponse:
        """The answer to one request; `json` is a body too."""
        sent = msgspec.json.encode(json) if json is not None else body
        path, _, query = url.encode().partition(b"?")

        async def read_body(limit: int | None) -> bytes:
            if limit is not None and len(sent) > limit:
                raise HttpError(413, "too large")
            return sent

        incoming = Incoming(
            method=method,
            raw_path=path,
            query=query,
            headers={"content-length": str(len(sent)), **(headers or {})},
            read_body=read_body,
        )
        return await self._rim.answer(incoming)

    async def json(self, method: str, url: str, body: bytes = b"", *, json: Any = None) -> Any:
        """The decoded body of an answer that has to be 200."""
        response = await self.request(method, url, body, json=json)
        assert response.status == 200, response
        return msgspec.json.decode(response.body)


def header(response: ApiResponse, name: str) -> str | None:
    """The value of a header of the answer, whatever the case of its name."""
    wanted = name.lower()
    return next((value for key, value in response.headers if key.lower() == wanted), None)
