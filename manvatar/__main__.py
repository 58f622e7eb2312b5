"""``python -m manvatar COMMAND`` is the console script ``manvatar COMMAND``."""

from __future__ import annotations

from manvatar.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
