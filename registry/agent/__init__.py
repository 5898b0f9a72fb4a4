"""What every node does, and how a node is put together.

`main` starts a process, `node` is the composition root: it opens the store, starts the server, the
local services and checks, anti-entropy, watches and the faces, and ends them in the reverse order.
`facade` is all that the faces see of it. Configuration is read by `loading` from the table in
`config_table`; `reload` works out what a new configuration changes.
"""
