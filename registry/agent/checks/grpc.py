"""gRPC checks: the standard health protocol (grpc.health.v1), without generated code.

The two messages are one field each, so they are written and read here: a request is field 1, a
string (the service); an answer is field 1, an enum (1 = SERVING).
"""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Any

from registry.agent.checks.base import CRITICAL, PASSING
from registry.agent.checks.tcp import split_address
from registry.agent.definitions import CheckDefinition
from registry.hooks import CheckResult, CheckType

if TYPE_CHECKING:
    import grpc.aio  # type: ignore[import-untyped]

METHOD = "/grpc.health.v1.Health/Check"
SERVING = 1
_FIELD_1_STRING, _FIELD_1_VARINT = 0x0A, 0x08
_WIRE_VARINT, _WIRE_64, _WIRE_BYTES, _WIRE_32 = 0, 1, 2, 5
#: A certificate that is trusted by itself need not lead to a root.
_VERIFY_PARTIAL_CHAIN = 0x80000


def encode_request(service: str) -> bytes:
    """HealthCheckRequest; the empty service stands for the whole server and is not written."""
    if not service:
        return b""
    raw = service.encode()
    return bytes([_FIELD_1_STRING]) + _encode_varint(len(raw)) + raw


def decode_response(raw: bytes) -> int:
    """The status of a HealthCheckResponse, 0 (UNKNOWN) when it holds none; skips other fields.

    Raises ValueError for bytes that are no such message.
    """
    status, at = 0, 0
    while at < len(raw):
        tag, at = _decode_varint(raw, at)
        wire_type = tag & 7
        if wire_type == _WIRE_VARINT:
            value, at = _decode_varint(raw, at)
            if tag == _FIELD_1_VARINT:
                status = value
        elif wire_type == _WIRE_BYTES:
            length, at = _decode_varint(raw, at)
            at += length
        elif wire_type in (_WIRE_64, _WIRE_32):
            at += 8 if wire_type == _WIRE_64 else 4
        else:
            raise ValueError("malformed health response")
    if at != len(raw):
        raise ValueError("malformed health response")
    return status


def _encode_varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _decode_varint(raw: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while at < len(raw) and shift < 64:
        byte = raw[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7
    raise ValueError("malformed health response")


class GrpcRunner:
    """One call on a connection of its own; the deadline is whoever runs it's."""

    def __init__(self, definition: CheckDefinition) -> None:
        self._given = definition.grpc
        self._target, _, self._service = definition.grpc.partition("/")
        self._use_tls = definition.grpc_use_tls
        self._skip_verify = definition.tls_skip_verify

    async def run(self) -> CheckResult:
        # grpcio takes 0.1 s and some MiB to import: only agents with such checks pay for it.
        import grpc.aio

        try:
            channel = await self._connect()
        except OSError as problem:
            text = f"rpc error: code = Unavailable desc = {problem}"
            return CheckResult(CRITICAL, text)
        try:
            call = channel.unary_unary(
                METHOD, request_serializer=encode_request, response_deserializer=decode_response
            )
            status = await call(self._service)
        except grpc.aio.AioRpcError as problem:
            code = problem.code().name.title().replace("_", "")
            return CheckResult(CRITICAL, f"rpc error: code = {code} desc = {problem.details()}")
        finally:
            await channel.close()
        if status == SERVING:
            return CheckResult(PASSING, f"gRPC check {self._given}: success")
        return CheckResult(CRITICAL, "gRPC application didn't report service healthy")

    def timed_out(self, timeout_ns: int) -> CheckResult:
        reason = "rpc error: code = DeadlineExceeded desc = context deadline exceeded"
        return CheckResult(CRITICAL, reason)

    async def _connect(self) -> grpc.aio.Channel:
        import grpc

        # A proxy in the environment is for the agent's users, not for a check of a target.
        options: list[tuple[str, Any]] = [("grpc.enable_http_proxy", 0)]
        if not self._use_tls:
            return grpc.aio.insecure_channel(self._target, options=options)
        roots = None
        if self._skip_verify:
            roots, name = await asyncio.to_thread(_presented_certificate, self._target)
            options.append(("grpc.ssl_target_name_override", name))
        credentials = grpc.ssl_channel_credentials(root_certificates=roots)
        return grpc.aio.secure_channel(self._target, credentials, options=options)


def _presented_certificate(target: str) -> tuple[bytes, str]:
    """The certificate that the target shows (PEM), and a name in it.

    grpcio can not be told to skip verification; trusting exactly what the target presents, under
    the name that it presents, is the same.
    """
    host, port = split_address(target)
    pem = ssl.get_server_certificate((host, port), timeout=10)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= _VERIFY_PARTIAL_CHAIN
    context.load_verify_locations(cadata=pem)
    import socket

    with (
        socket.create_connection((host, port), timeout=10) as raw,
        context.wrap_socket(raw) as connection,
    ):
        shown: Any = connection.getpeercert() or {}
    names = [
        value for kind, value in shown.get("subjectAltName", ()) if kind in ("DNS", "IP Address")
    ]
    common = [
        value for part in shown.get("subject", ()) for key, value in part if key == "commonName"
    ]
    return pem.encode(), next(iter(names + common), host)


def create(definition: CheckDefinition) -> GrpcRunner:
    return GrpcRunner(definition)


CHECK_TYPE = CheckType(key="grpc", type_name="grpc", create=create)
