"""The command line: one module per command family, each imported only when it is asked for.

`main` finds the command in a table of names; the family's module is imported then, and talks HTTP
through `registry.client`. Only `agent` and `validate` reach into the program itself.
"""
