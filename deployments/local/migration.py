"""Bring the inventory database's schema up to date: `python -m deployments.local.migration`, run by the supervisor."""

from __future__ import annotations

import sys

from tasks.core.db.migrate import migrate_sync
from tasks.core.errors import ToolError
from tasks.core.settings import settings


def main() -> int:
    """Migrate, and say to which revision."""
    try:
        revision = migrate_sync(settings().resolve_database_url("owner"))
    except ToolError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    print(f"revision {revision}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
