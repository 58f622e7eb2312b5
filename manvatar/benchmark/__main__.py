"""``python -m manvatar.benchmark``."""

from __future__ import annotations

from manvatar.benchmark.command import main

raise SystemExit(main())
