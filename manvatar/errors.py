"""The one exception a user's mistake raises."""

from __future__ import annotations


class UserError(Exception):
    """What the user gave cannot be used; the message is one sentence: what was wrong, where, and what to do.

    Commands print the message without a traceback and exit with status 2. Library callers may catch it.
    Programming mistakes (wrong shapes, wrong dtypes) raise ``ValueError`` or ``TypeError`` instead.
    """
