"""`python -m registry` is the same program as the `registry` console script."""

from registry.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
