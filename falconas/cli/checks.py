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
    """Refuse connection strings that cannot be read; does not connect."""
    from falconas.database.inventory import nodes_of, sources_of

    try:
        sources_of(settings)
        nodes_of(settings)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def check_connection(settings: Settings) -> None:
    """Refuse a database of which no node lets us in; connects once to each."""
    from falconas.database.inventory import sources_of
    from falconas.database.session import ConnectFailed, Session

    sources = sources_of(settings)
    failures = []
    for source in sources:
        if source.patroni:
            return  # nobody knows yet where it is
        try:
            Session.connect(source.dsn).close()
        except ConnectFailed as error:
            name = f"{source.name}: " if len(sources) > 1 else ""
            failures.append(f"{name}{error}")
        else:
            return
    raise StartError(f"no connection to the database: {'; '.join(failures)}")
