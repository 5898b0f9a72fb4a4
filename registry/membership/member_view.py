"""A node of the lower layer, as the member that the Serf layer and the merge rules see in it."""

from __future__ import annotations

from registry.errors import RemoteProtocolError
from registry.membership.seam import Node, NodeState
from registry.membership.serf_messages import decode_tags
from registry.membership.serf_values import Member, MemberStatus

#: What a node of the lower layer is to the merge rules; intents decide what it is to the pool.
_STATUSES = {
    NodeState.ALIVE: MemberStatus.ALIVE,
    NodeState.SUSPECT: MemberStatus.ALIVE,
    NodeState.DEAD: MemberStatus.FAILED,
    NodeState.LEFT: MemberStatus.LEFT,
}


def member_of(node: Node) -> Member:
    """The node with its tags; tags that cannot be read are none."""
    try:
        tags = decode_tags(node.meta)
    except RemoteProtocolError:
        tags = {}
    versions = node.versions
    return Member(
        name=node.name,
        address=node.address[0],
        port=node.address[1],
        tags=tags,
        status=_STATUSES[node.state],
        protocol_min=versions.protocol_min,
        protocol_max=versions.protocol_max,
        protocol_current=versions.protocol_current,
        delegate_min=versions.delegate_min,
        delegate_max=versions.delegate_max,
        delegate_current=versions.delegate_current,
    )
