"""``python -m manvatar.face_models``."""

from __future__ import annotations

from manvatar.face_models.command import main

raise SystemExit(main())
