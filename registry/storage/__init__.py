"""The ordered byte store that a node keeps everything in, and the engines behind it.

`store` is the protocol: `get`, `scan`, `write(batch)`, `sync`, `snapshot`, `close`, and `stage` and
`replace` for what is too much for one batch. Two engines come with the registry:
`rocks.RocksStore`, the default, which lives in a directory and survives `kill -9`, and
`memory.MemoryStore`, which forgets everything and is what tests and throw-away agents use. Both
pass `registry.testing.storage.StoreContract`, as a plugin's engine must.

Start with `store.py`; then `keys.py` (who owns which prefix) and `format.py` (the version that a
directory is stamped with). Engines are imported by their own module names, so that importing this
package loads no native code.
"""

from registry.storage.format import FORMAT, check_format
from registry.storage.store import Batch, Reader, Snapshot, Staged, Store, prefix_stop

__all__ = [
    "FORMAT",
    "Batch",
    "Reader",
    "Snapshot",
    "Staged",
    "Store",
    "check_format",
    "prefix_stop",
]
