"""Keeps the password of `--redis URL` out of the process list.

Everybody on a machine can read the command lines of all processes (`ps`), and only their owner the
environment. So a command that was given a URL with a password replaces itself at once (the pid stays) by the
same command with the URL in CELERIAC_REDIS_URL, and says that it was there to be seen. `--redis @FILE` reads
the URL from a file.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

OPTION = "--redis"
VARIABLE = "CELERIAC_REDIS_URL"


def url_of(value: str) -> str:
    """What `--redis` means: the URL, or what stands in the file after an `@`; a usage error if none."""
    if not value.startswith("@"):
        return value
    try:
        with open(value[1:], encoding="utf-8") as file:
            found = file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{value[1:]} cannot be read: {error}", param_hint=OPTION) from None
    if not found:
        raise click.BadParameter(f"{value[1:]} is empty", param_hint=OPTION)
    return found


def without_url(words: Sequence[str]) -> tuple[list[str], str]:
    """A command line without its `--redis`, and the URL that the last of them gave. What follows `--` is
    not ours.
    """
    kept: list[str] = []
    url, rest = "", iter(words)
    for word in rest:
        if word == "--":
            kept += [word, *rest]
        elif word == OPTION:
            url = next(rest, "")
        elif word.startswith(f"{OPTION}="):
            url = word.partition("=")[2]
        else:
            kept.append(word)
    return kept, url


def hide_password() -> None:
    """Replace this process when its command line shows a password; returns when it does not."""
    words, url = without_url(sys.orig_argv[1:])
    if not url or url.startswith("@"):
        return
    from celeriac.celery_app.redis_urls import masked_url

    if masked_url(url) == url:
        return
    click.echo(
        f"{click.style('Warning:', fg='yellow', bold=True)} everyone on this machine could read the password "
        f"in {OPTION} (ps), and your shell remembers it. From here on it is hidden; "
        f"use {VARIABLE}, or {OPTION} @FILE",
        err=True,
    )
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, *words], os.environ | {VARIABLE: url})
