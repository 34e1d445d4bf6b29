"""The scripts folder: its files, read once, and what they declare.

A script is a file with a function `run(ctx, …)`. Its path is its name:
`reports/daily.py` is `reports.daily`. Files and folders that begin with `_` or `.`
are no scripts; scripts import their helpers from there. A file that does not load
keeps no other from being served: it stands in `Library.errors` with one line that
says where and why.
"""

from __future__ import annotations

import hashlib
import linecache
import os
import stat
import sys
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from falconas.config import ConfigError
from falconas.database.inventory import group_for
from falconas.protocol import is_script_name
from falconas.settings import Group
from falconas.worker.declaration import Access, Options, Script, declared, script
from falconas.worker.parameters import SignatureError

__all__ = [
    "Access",
    "FolderError",
    "Library",
    "Options",
    "Script",
    "ScriptLoadError",
    "load",
    "load_file",
    "script",
]

_MESSAGE_LIMIT = 500
_HASH_LENGTH = 16


class FolderError(ConfigError):
    """The scripts folder cannot be read."""


class ScriptLoadError(ValueError):
    """A script does not load; the text goes behind its path."""


@dataclass
class Library:
    """The scripts of a folder, and why others are not among them."""

    scripts: dict[str, Script] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)

    @property
    def hash(self) -> str:
        """Name of this set of scripts: equal on two hosts means equal scripts."""
        lines = [f"{name} {found.hash}" for name, found in self.scripts.items()]
        lines += [f"{name} {text}" for name, text in self.errors.items()]
        lines += [f"{name} of {group}" for name, group in self.groups.items()]
        return _digest("\n".join(sorted(lines)).encode())

    def assign(self, groups: Mapping[str, Group]) -> Library:
        """Give each script to its group; one that none may serve becomes an error."""
        for name in (*self.scripts, *self.errors):
            if (group := group_for(name, groups)) is not None:
                self.groups[name] = group
        for name, found in list(self.scripts.items()):
            if error := _objection(found, self.groups.get(name), groups):
                self.errors[name] = error
                del self.scripts[name]
        return self

    def manifest(self) -> dict[str, Any]:
        """Return the catalogue: plain values, scripts that do not load included."""
        entries = {name: found.describe() for name, found in self.scripts.items()}
        for name, text in self.errors.items():
            entries[name] = {
                "access": "write",
                "idempotent": False,
                "budget": None,
                "max_lag": None,
                "hash": _digest(text.encode()),
                "description": "",
                "params": [],
                "error": text,
            }
        for name, entry in entries.items():
            entry["group"] = self.groups.get(name)
        return {"scripts": dict(sorted(entries.items()))}


def load(folder: Path) -> Library:
    """Import all scripts below `folder`.

    Raises:
        FolderError: It cannot be read.
    """
    root = folder.resolve()
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise FolderError(f"scripts folder {folder} {what}")
    if str(root) not in sys.path:
        sys.path.append(str(root))  # last: a helper never hides an installed module
    try:
        files = list(_files(root))
    except OSError as error:
        raise FolderError(
            f"scripts folder {folder} cannot be read: {error.strerror}"
        ) from None
    helpers = _helpers_digest(root, files)
    library = Library()
    for path in files:
        relative = path.relative_to(root)
        if not _is_script(relative):
            continue
        name = ".".join(relative.with_suffix("").parts)
        try:
            _check_name(relative, name)
            _check_file(path, root)
            library.scripts[name] = _load(path, name, helpers)
        except ScriptLoadError as error:
            key = name if "." not in relative.stem else str(relative)
            library.errors[key] = _one_line(f"{relative}{error}")
    return library


def load_file(path: Path) -> Script:
    """Import one script by its path, whatever folder it is in.

    Raises:
        ScriptLoadError: It does not load.
    """
    if str(path.parent.resolve()) not in sys.path:
        sys.path.append(str(path.parent.resolve()))
    try:
        return _load(path.resolve(), path.stem, b"")
    except ScriptLoadError as error:
        raise ScriptLoadError(_one_line(f"{path}{error}")) from None


def _files(root: Path) -> Iterator[Path]:
    def failed(error: OSError) -> None:
        raise error

    for where, folders, names in os.walk(root, onerror=failed):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        for name in sorted(names):
            if name.endswith(".py"):
                yield Path(where, name)


def _is_script(relative: Path) -> bool:
    return not any(part.startswith(("_", ".")) for part in relative.parts)


def _check_name(relative: Path, name: str) -> None:
    if "." in relative.stem or not is_script_name(name):
        raise ScriptLoadError(
            ": not a script's name; folders and files are of a-z, 0-9 and _,"
            " begin with a letter and are at most 4 deep"
        )


def _check_file(path: Path, root: Path) -> None:
    target = path.resolve()
    if not target.is_relative_to(root):
        raise ScriptLoadError(": a link that leads out of the scripts folder")
    try:
        mode = target.stat().st_mode
    except OSError as error:
        raise ScriptLoadError(f": {error.strerror}") from None
    if not stat.S_ISREG(mode):
        raise ScriptLoadError(": not a regular file")
    if mode & stat.S_IWOTH:
        raise ScriptLoadError(": anybody may write to it; chmod o-w it")


def _load(path: Path, name: str, helpers: bytes) -> Script:
    source, text = _read(path)
    module = _execute(path, name, text)
    run = vars(module).get("run")
    if run is None:
        raise ScriptLoadError(": there is no function run(ctx, …)")
    try:
        return declared(
            run,
            name=name,
            path=path,
            digest=_digest(helpers + source),
            description=module.__doc__ or "",
        )
    except SignatureError as error:
        line = f":{error.line}" if error.line else ""
        raise ScriptLoadError(f"{line}: {error}") from None


def _read(path: Path) -> tuple[bytes, str]:
    try:
        source = path.read_bytes()
    except OSError as error:
        raise ScriptLoadError(f": cannot be read: {error.strerror}") from None
    try:
        return source, source.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = source.count(b"\n", 0, error.start) + 1
        raise ScriptLoadError(f":{line}: not UTF-8") from None


def _execute(path: Path, name: str, text: str) -> ModuleType:
    module = ModuleType(f"falconas_scripts.{name}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # annotations are looked up there
    try:
        # For tracebacks: the file may change while this goes on serving.
        lines = text.splitlines(keepends=True)
        linecache.cache[str(path)] = len(text), None, lines, str(path)
        exec(compile(text, path, "exec", dont_inherit=True), vars(module))  # noqa: S102
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # sys.exit() as well
        del sys.modules[module.__name__]
        raise ScriptLoadError(_where(error, path)) from None
    return module


def _where(error: BaseException, path: Path) -> str:
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f":{error.lineno}: {type(error).__name__}: {error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    line = f":{lines[-1]}" if lines else ""
    try:
        text = str(error)
    except Exception:
        text = ""
    return f"{line}: {type(error).__name__}: {text}"


def _helpers_digest(root: Path, files: list[Path]) -> bytes:
    """Fingerprint what scripts import from the folder: it is part of what they do."""
    digest = hashlib.sha256()
    for path in files:
        relative = path.relative_to(root)
        if not _is_script(relative):
            digest.update(str(relative).encode(errors="surrogateescape") + b"\0")
            digest.update(_content(path) + b"\0")
    return digest.digest()


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes() if path.is_file() else b""
    except OSError:
        return b""  # the script that imports it says so


def _objection(script: Script, group: str | None, groups: Mapping[str, Group]) -> str:
    """Say why no group can serve a script, nothing if one can."""
    if group is None:
        return f"no group has a pattern for it; groups: {', '.join(groups)}"
    if script.access == "write" and groups[group].access == "read":
        return (
            f'it writes, and its group {group} has access = "read"; declare it'
            ' @script(access="read"), or give it to another group'
        )
    return ""


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:_HASH_LENGTH]


def _one_line(text: str) -> str:
    line = " ".join(text.encode(errors="backslashreplace").decode().split())
    return line if len(line) <= _MESSAGE_LIMIT else line[:_MESSAGE_LIMIT] + "…"
