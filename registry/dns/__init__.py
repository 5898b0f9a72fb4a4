"""DNS: the catalog as names, for programs that know nothing of the API.

A question becomes reads of the state, through the same path as those of the HTTP API, and their
results become records. `resolver` is the core: a generator that is given a question, asks for what
it wants to know (a read, a recursor's answer, the verdict of plugins), is told, and gives the
reply. It has no socket, clock or loop. Around it:

    rules      the configuration as the core looks it up  (pure)
    names      what a name asks for                       (pure)
    records    nodes and instances as records             (pure)
    messages   questions out of packets, replies into them, cut to size   (pure)
    recursors  names that are not ours, asked elsewhere
    answering  drives the core: reads, recursors, plugins, metrics
    server     UDP and TCP listeners

Forms of names, records and limits are those of Consul 1.8. `server.DnsServer(facade)` is all that a
node needs.
"""

from registry.dns.server import DnsServer

__all__ = ["DnsServer"]
