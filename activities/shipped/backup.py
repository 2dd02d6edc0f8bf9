"""Backing up a folder into a content-addressed store: each content once, named by its SHA-256.

    backup_dir/objects/ab/cdef...     the contents
    backup_dir/manifests/*.json       one for each backup: which path has which content

Running any of these twice, or twice at once, leaves the same files as running it once.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from celeriac.orchestrations.errors import NonRetryableError

from ..model import activity
from ._files import flush_folder, replacing

BLOCK = 1024 * 1024
DEV_FOLDER = ".celeriac"


@dataclass(frozen=True)
class StoreJob:
    """Which file to store, and where."""

    root: str
    path: str
    backup_dir: str


@dataclass(frozen=True)
class StoredFile:
    """One file of a backup."""

    path: str  # relative to the backed-up folder
    size: int
    sha256: str


class CorruptObjectError(Exception):
    """The stored content does not have the hash it is named by; the next attempt stores it anew."""


@activity
def list_files(root: str, backup_dir: str, tracked_only: bool = False) -> list[str]:
    """Paths of all regular files under `root`, sorted: those git tracks, or all but the backup itself and
    what `celeriac dev` keeps (its Redis writes there all the time).
    """
    folder = Path(root)
    if not folder.is_dir():
        raise NonRetryableError(f"{root} is not a folder")
    paths = _tracked(folder) if tracked_only else _walked(folder)
    backup = Path(backup_dir).resolve()
    inside = (p for p in paths if not (folder / p).is_symlink() and (folder / p).is_file())
    return sorted(p.as_posix() for p in inside if not (folder / p).resolve().is_relative_to(backup))


def _walked(folder: Path) -> list[Path]:
    paths = (path.relative_to(folder) for path in folder.rglob("*"))
    return [path for path in paths if DEV_FOLDER not in path.parts]


def _tracked(folder: Path) -> list[Path]:
    try:
        listing = subprocess.run(
            ["git", "-C", str(folder), "ls-files", "-z"], capture_output=True, check=True, timeout=60
        )
    except FileNotFoundError as error:
        raise NonRetryableError("git is not installed; back up without tracked_only") from error
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode(errors="replace").strip()
        raise NonRetryableError(f"git cannot list the files of {folder}: {reason}") from error
    return [Path(os.fsdecode(name)) for name in {*listing.stdout.split(b"\0")} if name]


@activity
def store_file(job: StoreJob) -> StoredFile:
    """Copy one file into the store unless its content is there already, and verify what was stored."""
    objects = Path(job.backup_dir) / "objects"
    objects.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(prefix=".partial-", dir=objects) as copy:
        digest, size = hashlib.sha256(), 0
        with (Path(job.root) / job.path).open("rb") as source:
            while block := source.read(BLOCK):
                digest.update(block)
                copy.write(block)
                size += len(block)
        stored = StoredFile(job.path, size, digest.hexdigest())
        target = object_path(job.backup_dir, stored.sha256)
        if not (target.exists() and hash_of(target) == stored.sha256):
            copy.seek(0)
            with replacing(target) as file:
                while block := copy.read(BLOCK):
                    file.write(block)
            flush_folder(objects)
    if hash_of(target) != stored.sha256:
        target.unlink(missing_ok=True)
        raise CorruptObjectError(f"{target} does not hold what was written for {job.path}")
    return stored


@activity
def write_manifest(root: str, backup_dir: str, taken_at: datetime, files: list[StoredFile]) -> str:
    """Write the list of a backup's files; returns its path. The same arguments give the same file."""
    form = {"root": root, "taken_at": taken_at.isoformat(), "files": [asdict(file) for file in files]}
    text = json.dumps(form, indent=1, ensure_ascii=False).encode()
    name = f"{taken_at.astimezone(UTC):%Y%m%dT%H%M%SZ}-{hashlib.sha256(text).hexdigest()[:12]}.json"
    target = Path(backup_dir) / "manifests" / name
    with replacing(target) as file:
        file.write(text)
    return str(target)


def object_path(backup_dir: str, sha256: str) -> Path:
    """Where the store keeps the content with this hash."""
    return Path(backup_dir) / "objects" / sha256[:2] / sha256[2:]


def hash_of(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_backup(manifest: str, root: str, tracked_only: bool = False) -> list[str]:
    """Compare a backup with the folder it was taken of; one line for each difference, none when it is
    right.
    """
    backup_dir = str(Path(manifest).parent.parent)
    listed = {each["path"]: each for each in json.loads(Path(manifest).read_text())["files"]}
    present = set(list_files(root, backup_dir, tracked_only))
    problems = [f"missing in the backup: {path}" for path in sorted(present - listed.keys())]
    problems += [f"not in the folder: {path}" for path in sorted(listed.keys() - present)]
    for path in sorted(present & listed.keys()):
        stored = object_path(backup_dir, listed[path]["sha256"])
        if not stored.is_file() or hash_of(stored) != listed[path]["sha256"]:
            problems.append(f"stored content damaged: {path}")
        elif hash_of(Path(root) / path) != listed[path]["sha256"]:
            problems.append(f"other content: {path}")
    return problems
