"""What is worth checking before a process starts, for a clear line at once."""

from __future__ import annotations

from pathlib import Path

from falconas.config import ConfigError, Settings


def check_scripts(settings: Settings) -> None:
    """Refuse a scripts folder that is not there."""
    folder = Path(settings.worker.scripts)
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise ConfigError(
            f"scripts folder {folder.absolute()} {what}: make it, or name another by"
            " --scripts (worker.scripts)"
        )


def check_database(settings: Settings) -> None:
    """Refuse a connection string that libpq cannot read; does not connect."""
    from falconas.database.conninfo import InvalidDsn, conninfo

    try:
        conninfo(settings.database.dsn)
    except InvalidDsn as error:
        raise ConfigError(f"database.dsn: {error}") from None
