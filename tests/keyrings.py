"""Codecs of tests, as `CELERIAC_CODEC` names them: `keyrings:first` and so on."""

from __future__ import annotations

from celeriac.celery_app.encryption import AesGcm

OLD, NEW = bytes(range(32)), bytes(range(32, 64))


def first() -> AesGcm:
    return AesGcm({"old": OLD})


def rotated() -> AesGcm:
    return AesGcm({"new": NEW, "old": OLD})


def other() -> AesGcm:
    """Knows neither key, but has one of the same name."""
    return AesGcm({"new": OLD})


class Moody:
    """Seals nothing while it is in a bad mood."""

    bad = False

    def seal(self, data: bytes) -> bytes:
        if Moody.bad:
            raise ConnectionError(f"no key server for {data!r}")
        return first().seal(data)

    def open(self, data: bytes) -> bytes:
        return first().open(data)


def backwards() -> object:
    class Backwards:
        def seal(self, data: bytes) -> bytes:
            return data

        def open(self, data: bytes) -> bytes:
            return data[::-1]

    return Backwards()
