"""The HTTP API: Consul's endpoints, texts and headers, in front of one agent.

Life of a request: `protocol` reads it from the wire and hands it to `rim`, directly when it is a
hot one, else through the Starlette application of `app`. The rim applies the rules that hold for
every endpoint and calls the handler that `routing` finds in the families' tables. Handlers, one
module per family (`kv`, `catalog`, `event`, ...), turn an `ApiRequest` into an `ApiResponse`; of
the agent they know its facade alone. `params` and `errors` are what they have in common.

`server.HttpServer(facade)` with `await start()` and `await stop()` is all that a node needs.
Start reading at `api`, then `rim`.
"""
