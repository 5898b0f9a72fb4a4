"""Results of commands and queries as bytes, so that an answer from another server equals a local
one.

What a result looks like is told by the annotation of `apply` or `run`, so a new command or query
needs nothing here. A `Refused` may come in place of any value. Only a transaction's rows need a
form of their own: they are records of several kinds, which MessagePack alone does not tell apart.
"""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Callable
from typing import Any, Final

import msgspec

from registry.errors import Corrupt
from registry.state.base import Command, Query, Refused
from registry.state.catalog_records import Check, Node, Service
from registry.state.txn import KvResult, TxnError, TxnOutcome

_encoder = msgspec.msgpack.Encoder()


class _Row(msgspec.Struct, frozen=True, array_like=True):
    """One row of a transaction and what kind of record it is."""

    kind: int
    record: msgspec.Raw


class _Outcome(msgspec.Struct, frozen=True, array_like=True):
    """A `TxnOutcome` on the wire."""

    rows: tuple[_Row, ...]
    errors: tuple[TxnError, ...]


#: Kinds of rows by their number on the wire.
_ROW_KINDS: Final[tuple[type[msgspec.Struct], ...]] = (KvResult, Node, Service, Check)
_row_decoders: Final = tuple(msgspec.msgpack.Decoder(kind) for kind in _ROW_KINDS)


class _Envelope(msgspec.Struct, frozen=True, array_like=True):
    """Either a refusal or a value."""

    refused: Refused | None
    value: msgspec.Raw


_envelope_decoder = msgspec.msgpack.Decoder(_Envelope)
_NOTHING = msgspec.Raw(_encoder.encode(None))


def encode_result(value: Any) -> bytes:
    """A command's result, or a query's value."""
    if isinstance(value, Refused):
        return _encoder.encode(_Envelope(value, _NOTHING))
    if isinstance(value, TxnOutcome):
        value = _to_wire(value)
    return _encoder.encode(_Envelope(None, msgspec.Raw(_encoder.encode(value))))


def decode_result(kind: type[Command] | type[Query], raw: bytes) -> Any:
    """What `encode_result` was given, for a command or query of this kind.

    Raises `Corrupt` for anything else.
    """
    try:
        envelope = _envelope_decoder.decode(raw)
        if envelope.refused is not None:
            return envelope.refused
        return _value_decoder(kind)(envelope.value)
    except (msgspec.MsgspecError, UnicodeDecodeError, IndexError) as problem:
        raise Corrupt(f"not a result of {kind.__name__}: {problem}") from problem


def result_type(kind: type[Command] | type[Query]) -> Any:
    """What a command or query of this kind gives when it is not refused, as a type."""
    function: Callable[..., Any] = kind.apply if issubclass(kind, Command) else kind.run
    found = typing.get_type_hints(function)["return"]
    if issubclass(kind, Query):
        _, found = typing.get_args(found)  # (index, value)
    if typing.get_origin(found) in (typing.Union, types.UnionType):
        left = tuple(each for each in typing.get_args(found) if each is not Refused)
        return typing.Union[left]  # noqa: UP007 - built from a tuple
    return found


@functools.cache
def _value_decoder(kind: type[Command] | type[Query]) -> Callable[[msgspec.Raw], Any]:
    wanted = result_type(kind)
    if wanted is TxnOutcome:
        decode = msgspec.msgpack.Decoder(_Outcome).decode
        return lambda raw: _from_wire(decode(raw))
    return msgspec.msgpack.Decoder(wanted).decode


def _to_wire(outcome: TxnOutcome) -> _Outcome:
    rows = tuple(
        _Row(_ROW_KINDS.index(type(record)), msgspec.Raw(_encoder.encode(record)))
        for record in outcome.results
    )
    return _Outcome(rows, outcome.errors)


def _from_wire(outcome: _Outcome) -> TxnOutcome:
    results = tuple(_row_decoders[row.kind].decode(row.record) for row in outcome.rows)
    return TxnOutcome(results=results, errors=outcome.errors)
