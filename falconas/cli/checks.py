"""What is worth checking before a process starts, for a clear line at once."""

from __future__ import annotations

from pathlib import Path

from falconas.config import ConfigError, Settings, StartError


def check_scripts(settings: Settings) -> None:
    """Refuse a scripts folder that is not there or cannot be read."""
    folder = Path(settings.worker.scripts)
    try:
        next(folder.iterdir(), None)
    except PermissionError as error:
        raise ConfigError(
            f"scripts folder {folder.absolute()} cannot be read: {error.strerror}"
        ) from None
    except OSError:
        what = "is not a folder" if folder.exists() else "does not exist"
        raise ConfigError(
            f"scripts folder {folder.absolute()} {what}: make it, or name another by"
            " --scripts (worker.scripts)"
        ) from None


def check_database(settings: Settings) -> None:
    """Refuse a connection string that libpq cannot read; does not connect."""
    from falconas.database.conninfo import InvalidDsn, conninfo

    try:
        conninfo(settings.database.dsn)
    except InvalidDsn as error:
        raise ConfigError(f"database.dsn: {error}") from None


def check_connection(settings: Settings) -> None:
    """Refuse a database that does not let us in; connects once."""
    from falconas.database.session import ConnectFailed, Session

    try:
        Session.connect(settings.database.dsn).close()
    except ConnectFailed as error:
        raise StartError(f"no connection to the database: {error}") from None
