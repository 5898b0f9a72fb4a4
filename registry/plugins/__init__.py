"""Plugins: found, loaded, put in order, called one by one, kept apart, and reported on.

A plugin is found by an entry point of group `registry` in an installed distribution, or as a module
or package in a `-plugin-dir` (`discovery`). Order is built-in features first, then installed
plugins by name, then directories as given and by name within each; in that order contributions are
collected, and the first to claim a name ("http" as a check type, `GET /v1/kv/` as a route) has it
(`collection`).

**Isolation.** Built-in features run where they are called. Everybody else's code runs in threads of
its own plugin (`threads`): asynchronous functions on that plugin's event loop, the others in a few
worker threads. So a plugin that raises, hangs, blocks or answers nonsense costs its own
contribution only: the call ends at its time limit, the failure is logged with its traceback, kept
for the report and counted (`record`), and a hook that fails again and again is left alone for a
while. What a plugin hands over to be called later (the runner of its check type, its HTTP handler)
is wrapped to the same end (`guards`).

Start with `Plugins.load`.
"""

from registry.plugins.collection import BUILTIN, Plugins
from registry.plugins.discovery import GROUP
from registry.plugins.record import Breaker, PluginRecord
from registry.plugins.threads import PluginThreads

__all__ = ["BUILTIN", "GROUP", "Breaker", "PluginRecord", "PluginThreads", "Plugins"]
