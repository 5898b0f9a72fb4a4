"""A service registry and config server: Consul's API on a small core that plugins extend.

Start reading at `registry.hooks` (what can be extended), `registry.agent.node` (how a node is put
together) and `registry.state` (what is replicated). Nothing is imported here, so that the command
line starts fast.
"""

__version__ = "0.2.0"

#: The level of the API that this program answers as; clients parse it from `build` tags.
COMPATIBLE_VERSION = "1.8.4"
