"""Finding nodes and instances as the API names them; with what index, and waiting for which topics.

Shared by the catalog's own listings, the reads of health and prepared queries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from registry.state.base import max_index
from registry.state.catalog_records import (
    CONNECT,
    EXTINCTION_INDEX,
    NODE_IDS,
    Node,
    NodeName,
    Service,
    fold,
    get_node,
    get_service,
    instances_of,
    service_index,
)
from registry.state.catalog_topics import connect_topic, service_topic
from registry.state.topics import Topic
from registry.storage.store import Reader


def find_node(reader: Reader, name_or_id: str) -> Node | None:
    """A node by name, or by a prefix of its id (at least two digits) that only one node has."""
    node = get_node(reader, name_or_id)
    if node is not None or len(name_or_id) < 2:
        return node
    prefix = fold(name_or_id)
    prefix = prefix[: len(prefix) // 2 * 2]  # whole bytes of the UUID, as the API cuts it
    start = NODE_IDS.prefix + prefix.encode("utf-8", "surrogateescape")
    stop = start + b"\xff"
    found = [raw for _, raw in reader.scan(start, stop, limit=2)]
    if len(found) != 1:
        return None
    return get_node(reader, msgspec.msgpack.decode(found[0], type=NodeName).node)


def find_instances(reader: Reader, name: str, *, connect: bool) -> list[Service]:
    """The instances of a service, or of the proxies in front of it."""
    if not connect:
        return list(instances_of(reader, name))
    pointers = CONNECT.scan(reader, fold(name))
    found = (get_service(reader, pointer.node, pointer.id) for pointer in pointers)
    return [service for service in found if service is not None]


def instances_index(
    reader: Reader, found: Iterable[Service], tables: tuple[str, ...] = ("nodes", "services")
) -> int:
    """The index of a read that found these instances (before any filter); `tables` are those that
    it looks into."""
    names = sorted({service_index(service.name) for service in found})
    if not names:
        return max_index(reader, EXTINCTION_INDEX) or max_index(reader, *tables)
    return max_index(reader, *names)


def instance_topics(
    reader: Reader, name: str, topic: Callable[[str], Topic] = service_topic, *, connect: bool
) -> tuple[Topic, ...]:
    """What a read of a service depends on: `topic` of each name that its instances have."""
    if not connect:
        return (topic(name),)
    proxies = sorted({fold(each.name) for each in find_instances(reader, name, connect=True)})
    return (connect_topic(name), *map(topic, proxies))


def has_meta(meta: dict[str, str] | None, wanted: dict[str, str]) -> bool:
    return all((meta or {}).get(key) == value for key, value in wanted.items())


def has_tags(tags: tuple[str, ...] | None, wanted: tuple[str, ...] | None) -> bool:
    """Whether every wanted tag is there, without regard to letter case; None wants nothing."""
    if wanted is None:
        return True
    have = {tag.lower() for tag in tags or ()}
    return all(tag.lower() in have for tag in wanted)
