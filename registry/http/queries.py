"""What a plugin's route may ask the agent, exported for it.

    async def handler(request: ApiRequest) -> ApiResponse:
        options = read_options(request)  # ?index, ?wait, ?stale, ?dc …, as all reads take them
        result = await request.agent.read(KvList(prefix=b"config/"), options)
        return json_response([key.decode() for key, _ in result.value], result)

A read whose options have a `min_index` waits, for up to `wait_ms`, until its index is higher.
`READ` are the parameters that `read_options` looks at, for a route's operations.
"""

from __future__ import annotations

from registry.http.options import INDEX_HEADERS, READ
from registry.http.params import read_options
from registry.state.base import ReadOptions, ReadResult
from registry.state.kv import KvEntry, KvGet, KvKeys, KvList

__all__ = [
    "INDEX_HEADERS",
    "READ",
    "KvEntry",
    "KvGet",
    "KvKeys",
    "KvList",
    "ReadOptions",
    "ReadResult",
    "read_options",
]
