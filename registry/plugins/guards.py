"""What a plugin hands over to be called later, wrapped so that its failures stay its own.

Each guard takes one contribution of a plugin and its record, and gives the same contribution whose
functions run in the plugin's threads, under a time limit, and are kept account of. Built-in
features are not wrapped.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from functools import wraps
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from registry.errors import ConfigError, PluginError, RegistryError
from registry.hooks import (
    AccessDenied,
    AuthMethod,
    Change,
    ChangeSink,
    CheckResult,
    CheckRunner,
    CheckType,
    CliCommand,
    DefinitionSource,
    DnsAnswer,
    DnsFilter,
    DnsQuestion,
    HttpAnswer,
    HttpCall,
    HttpMiddleware,
    HttpRoute,
    Identity,
    KvValidator,
    KvWrite,
    Metric,
    MetricsSink,
    PanelRequest,
    PlaceLost,
    ServiceTransform,
    StorageEngine,
    UiPanel,
    WatchHandler,
    WriteRefused,
)
from registry.plugins.record import PluginRecord, too_long

#: Reading one configuration file.
READ_LIMIT_S = 10.0

#: What a check or handler that is made may take while somebody waits for it. It is made on within
#: the plugin afterwards, and what is wrong with its settings then shows in the first run.
MAKE_LIMIT_S = 0.02

#: Running a watch handler once.
HANDLER_LIMIT_S = 60.0

#: What stands around a request; its client waits for it.
AROUND_LIMIT_S = 2.0

#: Choosing among the answers to a question over DNS, which is asked again elsewhere after a few
#: seconds.
FILTER_LIMIT_S = 1.0

#: Changing one definition; whoever registers waits for it.
TRANSFORM_LIMIT_S = 2.0

#: Telling the metrics of one interval.
METRICS_LIMIT_S = 10.0

#: Judging one write; whoever writes waits for it.
VALIDATE_LIMIT_S = 2.0

#: Drawing one panel; somebody looks at an empty frame meanwhile.
PANEL_LIMIT_S = 5.0
#: What a panel may come to: a page that somebody reads, not a download.
PANEL_BYTES_MAX = 512 << 10

#: Delivering one batch of changes.
DELIVERY_LIMIT_S = 60.0

_TRANSFORMS = "registry_service_transforms"


def guard_engine(engine: StorageEngine, record: PluginRecord) -> StorageEngine:
    """An engine that the configuration chose is trusted like the core: it runs where the store is
    used. Only its opening is reported as the plugin's."""

    def open_store(directory: Path) -> Any:
        record.calls += 1
        try:
            return engine.open(directory)
        except RegistryError:
            raise
        except Exception as error:
            raise record.failed("registry_storage_engines", error) from error

    return replace(engine, open=open_store)


def guard_source(source: DefinitionSource, record: PluginRecord) -> DefinitionSource:
    def load(path: Path, text: str) -> Mapping[str, Any]:
        hook = "registry_definition_sources"
        try:
            value: object = record.call_now(hook, source.load, path, text, limit_s=READ_LIMIT_S)
        except PluginError as error:
            raise ConfigError(str(error), file=str(path)) from error
        if not isinstance(value, Mapping):
            wrong = record.failed(hook, f"gave {type(value).__name__}, expected a mapping")
            raise ConfigError(str(wrong), file=str(path))
        return value

    return replace(source, load=load)


class _Making:
    """Something that a plugin makes from a definition, in its own time.

    The definition's fault, a `ValueError`, is raised where the definition is taken if it comes
    within `MAKE_LIMIT_S`, else where the thing is used.
    """

    def __init__(self, record: PluginRecord, hook: str, create: Callable[[Any], Any]) -> None:
        self._record, self._hook, self._create = record, hook, create
        self._future: Future[Any] | None = None
        self._made: Any = None

    def begin(self, definition: Any) -> None:
        """Raises `ValueError` with one sentence."""
        record = self._record
        record.calls += 1
        if record.threads is None:
            self._made = self._create(definition)
            return
        self._future = record.threads.submit(self._create, definition)
        try:
            self._made = self._future.result(MAKE_LIMIT_S)
        except FutureTimeout:
            if self._future.done():
                raise self._failure() from None
        except ValueError:
            raise
        except (Exception, SystemExit):
            raise self._failure() from None

    @property
    def made(self) -> Any:
        """The thing, if it was made in time; what it can do besides is only known then."""
        return self._made

    def _failure(self) -> ValueError:
        assert self._future is not None
        problem = self._future.exception()
        assert problem is not None
        error = ValueError(str(self._record.failed(self._hook, problem)))
        error.__cause__ = problem
        return error

    async def get(self) -> Any:
        """The thing, once it is there. Raises what making it raised."""
        if self._made is None:
            assert self._future is not None
            self._made = await asyncio.shield(asyncio.wrap_future(self._future))
        return self._made


def guard_check_type(kind: CheckType, record: PluginRecord) -> CheckType:
    hook = "registry_check_types"

    def create(definition: Any) -> CheckRunner:
        making = _Making(record, hook, kind.create)
        making.begin(definition)
        follows = hasattr(making.made, "follow")
        return (FollowingRunner if follows else GuardedRunner)(making, record, hook)

    return replace(kind, create=create)


class GuardedRunner:
    """Runs a plugin's check in the plugin's threads, and keeps what goes wrong in it."""

    def __init__(self, making: _Making, record: PluginRecord, hook: str) -> None:
        self._making, self._record, self._hook = making, record, hook
        self._context: Any = None

    def bind(self, context: Any) -> None:
        # Without the servers: they are asked on the agent's loop, and by a plugin over HTTP.
        self._context = dataclasses.replace(context, backend=None)

    async def run(self) -> CheckResult:
        """Whoever runs checks sets their time limit, and logs why one is critical."""
        runner = await self._bound()
        return self._checked(
            await self._record.call(self._hook, runner.run, limit_s=None, log=False)
        )

    def timed_out(self, timeout_ns: int) -> CheckResult:
        """Whoever runs checks has given this run up."""
        wrong = self._record.failed(self._hook, too_long(timeout_ns / 1e9))
        return CheckResult("critical", str(wrong))

    async def _bound(self) -> Any:
        runner = await self._making.get()
        context, self._context = self._context, None
        if context is not None and hasattr(runner, "bind"):
            await self._record.call(self._hook, runner.bind, context, limit_s=HANDLER_LIMIT_S)
        return runner

    def _checked(self, result: object) -> CheckResult:
        if isinstance(result, CheckResult):
            return result
        problem = f"gave {type(result).__name__}, expected CheckResult"
        raise self._record.failed(self._hook, problem, log=False)


class FollowingRunner(GuardedRunner):
    """The same for a check that reports by itself."""

    async def follow(self, report: Callable[[CheckResult], None]) -> None:
        runner = await self._bound()
        loop = asyncio.get_running_loop()

        def hand_over(result: object) -> None:  # called in the plugin's thread
            checked = self._checked(result)
            loop.call_soon_threadsafe(report, checked)

        await self._record.call(self._hook, runner.follow, hand_over, limit_s=None)


def guard_handler(handler: WatchHandler, record: PluginRecord) -> WatchHandler:
    hook = "registry_watch_handlers"

    def create(definition: Any) -> Callable[[int, bytes], Awaitable[None]]:
        making = _Making(record, hook, handler.create)
        making.begin(definition)

        async def handle(index: int, data: bytes) -> None:
            function = await making.get()
            await record.call(hook, function, index, data, limit_s=HANDLER_LIMIT_S, log=False)

        return handle

    return replace(handler, create=create)


def guard_sink(sink: ChangeSink, record: PluginRecord) -> ChangeSink:
    async def deliver(changes: Sequence[Change]) -> None:
        await record.call(
            "registry_change_sinks",
            sink.deliver,
            changes,
            limit_s=DELIVERY_LIMIT_S,
            passes=(PlaceLost,),
        )

    return replace(sink, deliver=deliver)


def guard_validator(validator: KvValidator, record: PluginRecord) -> KvValidator:
    """Its `validate` becomes async, and raises nothing but `WriteRefused`."""
    hook = "registry_kv_validators"

    async def validate(write: KvWrite) -> None:
        try:
            await record.call_guarded(
                hook, validator.validate, write, limit_s=VALIDATE_LIMIT_S, passes=(WriteRefused,)
            )
        except RegistryError as problem:
            if validator.on_failure != "allow":
                raise WriteRefused(f"the write could not be judged: {problem}", 403) from problem

    return replace(validator, validate=validate)


class GuardedTransform(ServiceTransform, frozen=True, kw_only=True):
    """A transform of a plugin; what fails gives the definition back as it was."""

    record: PluginRecord

    def now(self, definition: dict[str, Any], source: str) -> dict[str, Any]:
        """Where no event loop runs yet, or in a thread that may wait."""
        try:
            changed = self.record.call_now(
                _TRANSFORMS, self.transform, dict(definition), source, limit_s=TRANSFORM_LIMIT_S
            )
        except RegistryError:
            return definition
        return self._checked(changed, definition)

    async def soon(self, definition: dict[str, Any], source: str) -> dict[str, Any]:
        """On the agent's loop."""
        try:
            changed = await self.record.call_guarded(
                _TRANSFORMS, self.transform, dict(definition), source, limit_s=TRANSFORM_LIMIT_S
            )
        except RegistryError:
            return definition
        return self._checked(changed, definition)

    def refuse(self, problem: Exception) -> None:
        """What it gave is no definition."""
        self.record.failed(_TRANSFORMS, problem)

    def _checked(self, changed: object, definition: dict[str, Any]) -> dict[str, Any]:
        if isinstance(changed, Mapping):
            return dict(changed)
        self.record.failed(_TRANSFORMS, f"gave {type(changed).__name__}, expected a mapping")
        return definition


def guard_transform(transform: ServiceTransform, record: PluginRecord) -> ServiceTransform:
    return GuardedTransform(name=transform.name, transform=transform.transform, record=record)


def guard_metrics(sink: MetricsSink, record: PluginRecord) -> MetricsSink:
    async def deliver(metrics: Sequence[Metric]) -> None:
        await record.call_guarded(
            "registry_metrics_sinks", sink.deliver, metrics, limit_s=METRICS_LIMIT_S
        )

    return replace(sink, deliver=deliver)


def guard_route(route: HttpRoute, record: PluginRecord) -> HttpRoute:
    hook = "registry_http_routes"

    @wraps(route.handler)
    async def handle(request: Any) -> Any:
        response = await record.call(hook, route.handler, request, limit_s=route.limit_s)
        if not (hasattr(response, "status") and hasattr(response, "stream")):
            raise record.failed(hook, f"gave {type(response).__name__}, expected ApiResponse")
        if response.stream is not None:
            response.stream = _fetched(response.stream, record, route.limit_s)
        return response

    return replace(route, handler=handle)


async def _fetched(
    stream: AsyncIterator[bytes], record: PluginRecord, limit_s: float
) -> AsyncIterator[bytes]:
    """The chunks of a plugin's answer, each made on the plugin's loop."""

    async def next_chunk() -> bytes | None:
        return await anext(stream, None)

    while (chunk := await record.call("stream", next_chunk, limit_s=limit_s)) is not None:
        yield chunk


def guard_middleware(middleware: HttpMiddleware, record: PluginRecord) -> HttpMiddleware:
    """Its functions become async, and raise nothing but `AccessDenied`; they give None instead."""
    hook = "registry_http_middleware"

    def guarded(function: Callable[..., Any] | None) -> Callable[..., Any] | None:
        if function is None:
            return None

        async def call(*arguments: Any) -> HttpAnswer | None:
            try:
                answer: HttpAnswer | None = await record.call_guarded(
                    hook,
                    function,
                    *arguments,
                    limit_s=AROUND_LIMIT_S,
                    passes=(AccessDenied,),
                    gives=HttpAnswer,
                )
            except RegistryError:
                return None
            return answer

        return call

    return replace(middleware, before=guarded(middleware.before), after=guarded(middleware.after))


def guard_auth(method: AuthMethod, record: PluginRecord) -> AuthMethod:
    """Its function becomes async, and raises nothing but `AccessDenied`."""
    hook = "registry_auth_methods"

    async def authenticate(call: HttpCall) -> Identity | None:
        try:
            identity: Identity | None = await record.call_guarded(
                hook,
                method.authenticate,
                call,
                limit_s=AROUND_LIMIT_S,
                passes=(AccessDenied,),
                gives=Identity,
            )
        except RegistryError as problem:
            if method.required:
                raise AccessDenied(f"nobody can be authenticated now: {problem}") from problem
            return None
        return identity

    return replace(method, authenticate=authenticate)


class GuardedPanel(UiPanel, frozen=True, kw_only=True):
    """A panel of a plugin, whose `draw` is asked in place of `render`."""

    record: PluginRecord

    async def draw(self, request: PanelRequest) -> str:
        """The panel's HTML. Raises `PluginError`, or another of our errors, when there is none."""
        html: str = await self.record.call_guarded(
            "registry_ui_panels",
            self.render,
            request,
            limit_s=PANEL_LIMIT_S,
            judge=_wrong_with_html,
        )
        return html


def _wrong_with_html(given: object) -> str:
    if type(given) is not str:  # no subclass, whose methods would be the plugin's code
        return f"gave {type(given).__name__}, expected text"
    # Characters first, which are there without encoding them.
    size = len(given) if len(given) > PANEL_BYTES_MAX else len(given.encode("utf-8", "replace"))
    return f"gave {size} bytes, at most {PANEL_BYTES_MAX}" if size > PANEL_BYTES_MAX else ""


def guard_panel(panel: UiPanel, record: PluginRecord) -> UiPanel:
    return GuardedPanel(**{name: getattr(panel, name) for name in _OF_PANEL}, record=record)


_OF_PANEL = UiPanel.__struct_fields__


def guard_dns_filter(chooser: DnsFilter, record: PluginRecord) -> DnsFilter:
    """Its function becomes async, raises nothing, and gives only what it was shown."""
    hook = "registry_dns_filters"

    async def choose(question: DnsQuestion, answers: Sequence[DnsAnswer]) -> Sequence[DnsAnswer]:
        shown = {(each.node, each.service_id): each for each in answers}
        try:
            chosen: object = await record.call_guarded(
                hook, chooser.filter, question, list(answers), limit_s=FILTER_LIMIT_S
            )
        except RegistryError:
            return answers
        if not isinstance(chosen, Sequence):
            record.failed(hook, f"gave {type(chosen).__name__}, expected a sequence of DnsAnswer")
            return answers
        kept = [(each.node, each.service_id) for each in chosen if isinstance(each, DnsAnswer)]
        if len(kept) < len(chosen) or len({*kept}) < len(kept) or not shown.keys() >= {*kept}:
            record.failed(hook, "gave something else than the answers it was shown, each once")
            return answers
        return [shown[key] for key in kept]

    return replace(chooser, filter=choose)


def guard_command(command: CliCommand, record: PluginRecord) -> CliCommand:
    """A command is a process of its own and runs as long as it likes."""

    def run(arguments: Any) -> int:
        record.calls += 1
        status: int = command.run(arguments)
        return status

    return replace(command, run=run)
