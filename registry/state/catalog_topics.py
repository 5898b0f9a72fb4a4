"""What readers of the catalog sleep on; its writes touch these, its queries name them."""

from __future__ import annotations

from registry.state.catalog_records import fold
from registry.state.topics import Topic


def node_topic(name: str) -> Topic:
    return ("node", fold(name))


def node_services_topic(name: str) -> Topic:
    return ("node-services", fold(name))


def service_topic(name: str) -> Topic:
    """Wakes on any change of the health of a service (with `service.<name>`)."""
    return ("service", fold(name))


def instances_topic(name: str) -> Topic:
    """Wakes when the service's instances or their nodes change, checks apart."""
    return ("instances", fold(name))


def connect_topic(destination: str) -> Topic:
    """Wakes when the set of mesh proxies in front of a service changes."""
    return ("connect", fold(destination))


def node_checks_topic(node: str) -> Topic:
    return ("checks-node", fold(node))


def service_checks_topic(name: str) -> Topic:
    return ("checks-service", fold(name))


def state_checks_topic(state: str) -> Topic:
    return ("checks-state", state)
