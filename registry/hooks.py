"""Every hook of the registry, one page: the catalogue of what a plugin may do.

A plugin is a module or object whose functions are marked with `@hookimpl` and named like a
specification below; it is found by entry point (group `registry`) or in a `-plugin-dir`. Arguments
that an implementation does not need may be left out. Built-in features are registered through the
same hooks, by `registry.builtins`.

For each hook: who calls it and when, where it runs, whether it may block, what may be returned,
what happens when it raises, and since which version of the registry it is there. In all cases a
plugin that raises is named in the log, the metrics and `/v1/agent/plugins`, and the rest goes on;
nothing that is replicated ever depends on a plugin.

No plugin code runs in the agent's own thread, but for the storage engine that the configuration
names. Functions marked async run on an event loop that the plugin has to itself; others run in
worker threads of the plugin and may block. Each call has a time limit. "Once at start" is later for
a plugin that only a reload gives the settings that it needs: when they are there.

A name that is already there (a check type `http`, a route of the API) stays with its owner:
built-in features first, then installed plugins by name, then directories.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import pluggy

if TYPE_CHECKING:
    import argparse
    from asyncio import Task

    from httpx import AsyncClient

PROJECT = "registry"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


#: Marks a field of a plugin's settings as secret, whatever its name: `Annotated[str, Secret]`. What
#: shows settings says "hidden" in its place, as for names like "secret", "token" and "password".
Secret = msgspec.Meta(extra={"secret": True})


class CheckResult(msgspec.Struct, frozen=True):
    """Outcome of one run of a check: "passing", "warning" or "critical", and what to show."""

    status: str
    output: str = ""


class CheckRunner(Protocol):
    """Runs one check once; made anew when its definition changes.

    It may have further methods, which `registry.agent.checks.base` describes: `bind` to be lent
    what the agent has, `follow` to report by itself instead of at an interval, `timed_out` to say
    in its own words that a run was cut off.
    """

    async def run(self) -> CheckResult:
        """Called every interval and cancelled at its timeout. Raising counts as critical, with the
        exception's text as output."""
        ...


class CheckType(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of check.

    `key` is the field of a check definition that selects the kind ("http", "tcp", "dns-lookup").
    `create` gets the check's definition (a `registry.agent.definitions.CheckDefinition`; a kind
    that is not built in finds its own settings in `plugin_settings`) and raises `ValueError` with
    one clear sentence when they make no sense. `type_name` is what the API shows as `Type`.
    """

    key: str
    type_name: str
    create: Callable[[Any], CheckRunner]


class StorageEngine(msgspec.Struct, frozen=True, kw_only=True):
    """An engine that `storage_engine` in the configuration can name.

    `open` gets the directory (made if need be) and returns a `registry.storage.store.Store`; it
    raises `registry.errors.StorageError` with a message that says what to do. A durable engine
    calls `registry.storage.check_format` before it hands out the store. `durable` is False for
    engines that forget everything when closed. All of it is in `registry.testing.storage`.
    """

    name: str
    open: Callable[[Path], Any]
    durable: bool = True


class DefinitionSource(msgspec.Struct, frozen=True, kw_only=True):
    """A format of configuration and definition files: a file-name suffix and its reader.

    `suffix` begins with its dot (".toml"). `load` gets the file's path and text and returns one
    mapping, spelt like the JSON form; it raises `registry.errors.ConfigError` naming file, line and
    key.
    """

    suffix: str
    load: Callable[[Path, str], Mapping[str, Any]]


class ServiceTransform(msgspec.Struct, frozen=True, kw_only=True):
    """Changes definitions of services before this agent registers them.

    `transform` gets a definition as the body of `/v1/agent/service/register` (fields at their
    defaults are left out) and where it comes from, "file" or "http"; it gives the definition to
    register in its place. It may block, and has 2 seconds. What fails, or gives no valid
    definition, leaves the definition as it was. Several are applied in the order of loading.
    """

    name: str
    transform: Callable[[dict[str, Any], str], Mapping[str, Any]]


class Metric(msgspec.Struct, frozen=True, kw_only=True):
    """What one series of the agent's metrics came to in an interval.

    `kind` is "gauge" (then `value` counts), "counter" or "sample" (then the others do; samples are
    milliseconds).
    """

    kind: str
    name: str
    labels: Mapping[str, str]
    value: float = 0.0
    count: int = 0
    total: float = 0.0
    lowest: float = 0.0
    highest: float = 0.0
    mean: float = 0.0


class MetricsSink(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is told the agent's metrics every `interval_s` seconds, 10 at least.

    `deliver` gets the last interval's; it may be async, or block, and has 10 seconds. What it
    misses is not told again.
    """

    name: str
    deliver: Callable[[Sequence[Metric]], Any]
    interval_s: float = 10.0


class WatchHandler(msgspec.Struct, frozen=True, kw_only=True):
    """Something a watch can call. `key` is the watch definition's field that selects it ("args",
    "http_handler_config"); `create` gets the `WatchDefinition` and gives the function to call with
    (index, data as JSON bytes). One call at a time per watch; changes in between are merged."""

    key: str
    create: Callable[[Any], Callable[[int, bytes], Awaitable[None]]]


class Origin(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who asked for a write: the address of the HTTP client and its `?reason=`, if it gave one."""

    client: str = ""
    reason: str = ""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One change of the replicated state.

    `index` is the log index of the write; several changes may share one, and `(index, sequence)`
    strictly increases. `time_ms` is the leader's clock when it took the write.

    | `kind` | `key` | `value` after the change |
    |---|---|---|
    | "kv" | the key | as `/v1/kv/` shows it, without `Key` and with `Value` as bytes |
    | "node" | its name | as `/v1/catalog/nodes` shows it |
    | "service" | `node/service id` | as `/v1/catalog/node/NAME` shows it, and its `Node` |
    | "check" | `node/check id` | as `/v1/health/node/NAME` shows it |
    | "member" | its node's name | `{"Status": "alive" or "failed"}` |
    | "reset" | "" | None |
    | "complete" | "" | None |

    A `value` of None is a deletion (of a member: it left). "reset" says that changes before it may
    be missing: the whole state follows as changes of one index, and what is not among them is gone.
    It comes first of all to a sink that is new, and after a state was replaced as a whole.
    "complete" says that the whole state was told; only sinks with it among their kinds get it.
    """

    index: int
    sequence: int
    time_ms: int
    kind: str
    key: str
    value: Any = None
    origin: Origin | None = None


class PlaceLost(Exception):
    """Raised by the `deliver` of a sink that has lost what it was told before: it is told "reset"
    and the whole state."""


class ChangeSink(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is told every change, in order and at least once.

    `deliver` gets up to `batch_max` changes of the kinds wanted ("reset" always) and returns when
    they need not be delivered again; it has 60 seconds. Raising: the same changes come again,
    after a pause that grows to a minute, but for `PlaceLost`. With `where` "leader" the leader
    delivers, and the next leader goes on where the last one was; with "server" every server
    delivers by itself.
    `wants_origin` has writes say who asked for them even when they gave no reason.

    `name` is where the sink's place is remembered under, one for the whole cluster.
    """

    name: str
    deliver: Callable[[Sequence[Change]], Awaitable[None]]
    kinds: frozenset[str] = frozenset({"kv", "node", "service", "check", "member"})
    where: str = "leader"
    batch_max: int = 500
    wants_origin: bool = False


class WriteRefused(Exception):
    """Raised by a validator: the client is answered `status`, 400 or 403, with this text."""

    def __init__(self, text: str, status: int = 400) -> None:
        self.text, self.status = text, status
        super().__init__(text)


class KvWrite(msgspec.Struct, frozen=True, kw_only=True):
    """A write of one key, as it was asked for.

    `verb` is "set", "cas", "lock", "unlock", "delete", "delete-cas" or "delete-tree" (then `key` is
    the prefix). `value` is None where keys are deleted.
    """

    verb: str
    key: str
    value: bytes | None = None
    flags: int = 0
    origin: Origin | None = None


class KvValidator(msgspec.Struct, frozen=True, kw_only=True):
    """Judges writes of keys under `prefix` before they are proposed.

    `validate` returns to let a write pass and raises `WriteRefused` to refuse it; it may be async,
    or block, and has 2 seconds. In a transaction it is asked about each write, and one refusal
    refuses all. `on_failure` says what becomes of a write when the plugin itself fails or is left
    alone after too many failures: "allow", so that keys can be written whatever a plugin does, or
    "refuse".
    """

    name: str
    validate: Callable[[KvWrite], Any]
    prefix: str = ""
    on_failure: str = "allow"


class HttpRoute(msgspec.Struct, frozen=True, kw_only=True):
    """`method pattern` served by an async handler from `ApiRequest` to `ApiResponse`
    (`registry.http.api`). A pattern of the core can not be replaced.

    `operations` say what it takes and answers (`registry.http.operations`), one for each form of
    its path, for `/v1/openapi.json`; without them the handler's docstring is all that is told. A
    request is given up after `limit_s` seconds."""

    method: str
    pattern: str
    handler: Callable[[Any], Awaitable[Any]]
    operations: tuple[Any, ...] = ()
    limit_s: float = 60.0


class Identity(msgspec.Struct, frozen=True):
    """Who makes a request, as an auth method knows them."""

    name: str
    roles: tuple[str, ...] = ()


class AccessDenied(Exception):
    """Raised by an auth method or a middleware: the client is answered `status`, 401 or 403, with
    this text."""

    def __init__(self, text: str, status: int = 403) -> None:
        self.text, self.status = text, status
        super().__init__(text)


class HttpCall(msgspec.Struct, frozen=True, kw_only=True):
    """A request to the agent's HTTP API as plugins around it see it, without its body.

    `path` is decoded, `query` as it came; names of `headers` are in lower case. `identity` is what
    the auth methods found, None for an anonymous client.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    client: str
    identity: Identity | None = None


class HttpAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """An answer as plugins around the API see it. `headers` are those beside `Content-Type`."""

    status: int = 200
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()


class HttpMiddleware(msgspec.Struct, frozen=True, kw_only=True):
    """Something around the requests whose path begins with `prefix`.

    `before` gives an answer in place of the API's, or None to let the request go on; it may raise
    `AccessDenied`. `after` gives another answer in place of the one it is shown, or None to leave
    it; answers that are streamed are not shown. Each may be async, or block, and has 2 seconds,
    which clients wait for. What fails is left out.
    """

    name: str
    prefix: str = "/v1/"
    before: Callable[[HttpCall], Any] | None = None
    after: Callable[[HttpCall, HttpAnswer], Any] | None = None


class AuthMethod(msgspec.Struct, frozen=True, kw_only=True):
    """Tells who makes a request.

    `authenticate` gives an `Identity`, None when the request has nothing that this method knows
    (then the next one is asked, and a request that none knows is anonymous), or raises
    `AccessDenied` for credentials that are wrong. It may be async, or block, and has 2 seconds.
    With `required` nothing is served while the method itself fails; without, it is left out then.
    """

    name: str
    authenticate: Callable[[HttpCall], Any]
    required: bool = False


class PanelRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a panel is asked to show.

    `subject` is the name of the node or service, or the key, whose page the panel is on; "" on the
    overview. `query` has the other parameters of the panel's address, the first of each name.
    """

    subject: str = ""
    query: Mapping[str, str] = {}


class UiPanel(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the web UI that a plugin fills, at `/ui/panels/PLUGIN/SLUG`.

    `page` is where it belongs: "overview", or the page of each "node", "service" or "key". `render`
    gets a `PanelRequest` and gives HTML: what belongs into a body, which is then put into a page
    in the colours of the UI, or a whole document. It may be async, or block, and has 5 seconds and
    512 KiB. What it shows of others it has to escape (`html.escape`), though nothing that it gives
    can do harm: a panel is shown in a frame without scripts, forms, links out of the frame and
    anything from elsewhere, images and styles included unless they are part of the page.
    `height_px` is the height of that frame; what is longer scrolls.
    """

    slug: str
    title: str
    render: Callable[[PanelRequest], Any]
    page: str = "overview"
    height_px: int = 320

    def __post_init__(self) -> None:
        """Raises `ValueError` with one sentence."""
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", self.slug):
            raise ValueError(f"slug {self.slug!r} is not lower-case letters, digits and dashes")
        if self.page not in ("overview", "node", "service", "key"):
            raise ValueError(f"there is no page {self.page!r} for panels")
        if not isinstance(self.title, str) or not isinstance(self.height_px, int):
            raise ValueError(f"the title of {self.slug!r} must be text, its height a number")


class DnsQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """A question for a service or a prepared query over DNS.

    `name` is as it was asked, with its dot at the end; `type` is "A", "AAAA", "SRV", …; `client` is
    the address of whoever asks, most often a resolver, and `subnet` that of the resolver's client,
    if the resolver told ("" otherwise).
    """

    name: str
    type: str
    client: str
    subnet: str = ""


class DnsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A healthy instance that a question can be answered with; `node` and `service_id` say which.

    `address` is what clients are told: the instance's own, or its node's. `meta` is the instance's.
    """

    node: str
    service: str
    service_id: str
    datacenter: str
    address: str
    port: int
    tags: tuple[str, ...] = ()
    meta: Mapping[str, str] = {}
    node_meta: Mapping[str, str] = {}


class DnsFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Chooses among the instances that a question is answered with.

    `filter` gets the question and the instances in the order in which they would be given, shuffled
    if nothing else was asked for, and gives those to use, in its order. It sees all of them; what
    does not fit into the answer is cut afterwards. None left is answered as if there were no
    healthy instance. It may be async, or block, and has a second, which clients wait for. What
    fails, or gives anything but instances that it was shown, each once, leaves all as it was.
    Several are asked in the order of loading.
    """

    name: str
    filter: Callable[[DnsQuestion, Sequence[DnsAnswer]], Any]


class CliCommand(msgspec.Struct, frozen=True, kw_only=True):
    """A command `registry NAME` (NAME may hold spaces: "history diff").

    `configure` adds arguments to a parser, `run` gets the parsed arguments and returns the exit
    status. `help` is one line."""

    name: str
    help: str
    configure: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


class PluginTasks(Protocol):
    """Runs a plugin's own tasks on its event loop for as long as the plugin is started."""

    def create_task(self, coroutine: Coroutine[Any, Any, Any], *, name: str = "") -> Task[Any]:
        """Run it until it returns or the plugin is stopped. One that raises is reported as the
        plugin's failure; the plugin's other tasks go on."""
        ...


class PluginContext(Protocol):
    """What the agent lends to a plugin while it is started.

    It is used on the plugin's own event loop, which `registry_start` runs on.
    """

    @property
    def plugin(self) -> str:
        """The plugin's name, as reports show it."""
        ...

    @property
    def settings(self) -> Any:
        """The plugin's settings in force, of the type that `registry_settings` gave."""
        ...

    @property
    def node_name(self) -> str: ...
    @property
    def node_id(self) -> str: ...
    @property
    def datacenter(self) -> str: ...
    @property
    def is_server(self) -> bool: ...
    @property
    def config(self) -> Mapping[str, Any]:
        """The agent's configuration at its start, keys as in files; a key that holds a duration
        ends in `_ns` and is in nanoseconds."""
        ...

    @property
    def client(self) -> AsyncClient:
        """An `httpx.AsyncClient` of the local agent's HTTP API: `await client.get("/v1/kv/x")`."""
        ...

    @property
    def tasks(self) -> PluginTasks: ...
    @property
    def logger(self) -> logging.Logger: ...
    @property
    def data_dir(self) -> Path:
        """A directory of the plugin's own, made when first asked for. It lasts as long as the
        agent's data directory; under `-dev` it is gone with the agent."""
        ...


@hookspec
def registry_settings() -> type[msgspec.Struct]:
    """The type of the plugin's settings, whose fields are the keys under
    `plugins.settings.NAME` in the configuration.

    Called once at start and at each reload, on every agent; must not block. What the configuration
    says is converted strictly, and refused with plugin and key named. A plugin whose settings have
    a field without a default does nothing until the configuration has it. Raising: the plugin has
    no settings, and a configuration that gives some is refused. Since 0.2.
    """
    raise NotImplementedError


@hookspec
async def registry_start(context: PluginContext) -> None:
    """The agent serves; begin what is to run beside it, with `context.tasks`.

    Called once, on every agent, on the plugin's own event loop, so that blocking it harms nobody
    else. It has 10 seconds. Raising: the plugin counts as not started, `registry_stop` is not
    called, its other hooks go on. Since 0.2.
    """
    raise NotImplementedError


@hookspec
async def registry_stop(context: PluginContext) -> None:
    """The agent ends; its HTTP API still answers. Write down what must last.

    Called once after a `registry_start` that succeeded (or was not there), on the plugin's own
    event loop; it has 5 seconds, then the plugin's tasks are cancelled. Since 0.2.
    """
    raise NotImplementedError


@hookspec
async def registry_settings_changed(context: PluginContext) -> None:
    """A reload changed the plugin's settings; `context.settings` are the new ones.

    Called on the plugin's own event loop; it has 10 seconds. Raising: the new settings are in force
    all the same, and the failure is reported. Since 0.2.
    """
    raise NotImplementedError


@hookspec
def registry_storage_engines() -> Iterable[StorageEngine]:
    """Called once at start, before anything is opened. Raising: the engines of this plugin are not
    there, and an agent that is configured to use one does not start."""
    raise NotImplementedError


@hookspec
def registry_check_types() -> Iterable[CheckType]:
    """Called once at start, on every agent. Raising: the types of this plugin are not there, and
    definitions that use them are refused by name."""
    raise NotImplementedError


@hookspec
def registry_definition_sources() -> Iterable[DefinitionSource]:
    """Called once at start and by `registry validate`, before configuration files are read.
    Raising: files of these formats are not read."""
    raise NotImplementedError


@hookspec
def registry_service_transforms() -> Iterable[ServiceTransform]:
    """Called once at start, on every agent, before configuration files are read. `transform` runs
    in a worker of the plugin, when files are read and when a service is registered over HTTP.
    Raising: the transforms of this plugin are not there. Since 0.2."""
    raise NotImplementedError


@hookspec
def registry_metrics_sinks() -> Iterable[MetricsSink]:
    """Called once at start, on every agent. `deliver` is awaited on the plugin's own event loop, or
    runs in a worker. Raising: the sinks of this plugin are not there. Since 0.2."""
    raise NotImplementedError


@hookspec
def registry_watch_handlers() -> Iterable[WatchHandler]:
    """Called once at start, on every agent. Raising: watches that use them are refused."""
    raise NotImplementedError


@hookspec
def registry_change_sinks() -> Iterable[ChangeSink]:
    """Called once at start, on servers. `deliver` is awaited on the plugin's own event loop.
    Raising: the sinks of this plugin are not there. Since 0.2."""
    raise NotImplementedError


@hookspec
def registry_kv_validators() -> Iterable[KvValidator]:
    """Called once at start, on servers. `validate` is called on the server that received the write,
    before it is proposed: on the plugin's own event loop if it is async, else in a worker. A plugin
    has to be on every server to see every write. Raising: the validators of this plugin are not
    there. Since 0.2."""
    raise NotImplementedError


@hookspec
def registry_http_routes() -> Iterable[HttpRoute]:
    """Called once when the HTTP server is made. A handler that raises gives a 500 that names the
    plugin."""
    raise NotImplementedError


@hookspec
def registry_http_middleware() -> Iterable[HttpMiddleware]:
    """Called once when the HTTP server is made, on every agent. Of several, the first to be loaded
    is outermost. Its functions run on the plugin's own event loop if they are async, else in a
    worker. Raising: the middleware of this plugin is not there. Since 0.2."""
    raise NotImplementedError


@hookspec
def registry_auth_methods() -> Iterable[AuthMethod]:
    """Called once when the HTTP server is made, on every agent. Methods are asked in the order of
    loading, before any middleware, and for every request: an agent behind which writes are to be
    authenticated has to have the plugin itself. They run as middleware does. Raising: the methods
    of this plugin are not there. Since 0.2."""
    raise NotImplementedError


@hookspec
def registry_ui_panels() -> Iterable[UiPanel]:
    """Called once when the HTTP server is made, on every agent, and only shown by those that serve
    the web UI (`-ui`). `render` runs for each time that the panel is looked at, on the plugin's own
    event loop if it is async, else in a worker. When it raises, hangs or gives anything but text,
    the panel says so in its place, and is left alone for a while after several failures in a row.
    Raising: the panels of this plugin are not there. Since 0.2."""
    raise NotImplementedError


@hookspec
def registry_dns_filters() -> Iterable[DnsFilter]:
    """Called once when the DNS server is made, on every agent that serves DNS. `filter` is called
    on the agent that is asked, for each question that finds instances: on the plugin's own event
    loop if it is async, else in a worker. Raising: the filters of this plugin are not there.
    Since 0.2."""
    raise NotImplementedError


@hookspec
def registry_cli_commands() -> Iterable[CliCommand]:
    """Called by the command line only when the word typed is no built-in command."""
    raise NotImplementedError
