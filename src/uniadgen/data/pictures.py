"""Pictures of a catalogue: a path, a member of an archive or a URL, fetched within limits and decoded whole."""

import struct
import tarfile
import time
import warnings
import zipfile
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fsspec
import fsspec.core
from PIL import Image

from uniadgen.config import BuildConfig
from uniadgen.data.cutout import MAX_PIXELS

ARCHIVES = ("zip", "tar")
REMOTE = ("http", "https", "ftp", "s3", "gs", "gcs", "az", "abfs", "hf")  # fsspec knows more, and local ones among them
PAUSE = 0.5  # s before the second try; doubled before every further one


class Fault(Exception):
    """What is wrong with a picture, as its name in `clean.REASONS`."""


def fault(name: str, log: Path, build: BuildConfig) -> str:
    """What is wrong with a picture, as its name in `clean.REASONS`; empty: nothing, it can be decoded to its end.

    `name` is a path below the folder `log`, a URL on one of `build.allow_hosts`, or a member of a zip or tar archive
    at either, as fsspec writes it: `zip://inner.jpg::photos.zip`.
    """
    try:
        decode(fetch(name, log, build))
    except Fault as found:
        return str(found)
    return ""


def fetch(name: str, log: Path, build: BuildConfig) -> bytes:
    """The bytes of a picture; raises `Fault`, and `ValueError` where fsspec lacks a library for an allowed URL."""
    *archive, outer = name.split("::")
    try:
        if len(archive) > 1 or any(urlsplit(part).scheme not in ARCHIVES for part in archive):
            raise Fault("forbidden_picture")
        place, remote = _allowed(outer, log, build), bool(urlsplit(outer).netloc)
    except ValueError:  # nothing that could be a URL, such as http://[x
        raise Fault("forbidden_picture") from None
    for attempt in range(build.picture_tries if remote else 1):
        if attempt:
            time.sleep(PAUSE * 2 ** (attempt - 1))
        try:
            data = _read(archive[0] if archive else "", place, build)
            break
        except (FileNotFoundError, KeyError, IsADirectoryError):
            raise Fault("missing_picture") from None
        except (OSError, ValueError, zipfile.BadZipFile, tarfile.TarError, *_client_errors(place)):
            pass
        except ImportError as error:
            raise ValueError(f"{place}: {error}, expected it to be there as its host is allowed") from None
    else:
        raise Fault("missing_picture")
    if len(data) > build.max_picture_bytes:
        raise Fault("large_picture")
    return data


def _read(member: str, place: str, build: BuildConfig) -> bytes:
    """All of a file, or one byte more than is allowed."""
    system, path = _opened(member, place, build.picture_timeout)
    wanted, data = build.max_picture_bytes + 1, bytearray()
    with system.open(path, "rb", **_STREAM if _is_web(path) else {}) as file:
        while len(data) < wanted and (more := file.read(wanted - len(data))):  # the web gives what has come
            data += more
    return bytes(data)


# fsspec then asks once, by GET, and does not ask for the size first. Whatever the size, it is read up to the limit.
_STREAM = {"block_size": 0, "size": 1}


def _is_web(place: str) -> bool:
    return urlsplit(place).scheme in ("http", "https")


def _opened(member: str, place: str, timeout: float) -> tuple[Any, str]:
    """A file system and a path in it."""
    if member:
        return _archive(urlsplit(member).scheme, place, timeout), member.split("://", 1)[1]
    return fsspec.core.url_to_fs(place, **_limits(place, timeout))


@lru_cache(maxsize=8)  # an archive's list of members is read once
def _archive(kind: str, place: str, timeout: float) -> Any:
    return fsspec.filesystem(kind, fo=place, target_options=_limits(place, timeout))


def _limits(place: str, timeout: float) -> dict[str, Any]:
    """A redirection could lead to a host that is not allowed, so none is followed."""
    if not _is_web(place):
        return {}
    import aiohttp  # comes with fsspec[http]; other protocols do without it

    return {"client_kwargs": {"timeout": aiohttp.ClientTimeout(total=timeout)}, "allow_redirects": False}


def _client_errors(place: str) -> tuple[type[Exception], ...]:
    if not _is_web(place):
        return ()
    import aiohttp

    return (aiohttp.ClientError,)


def _allowed(place: str, log: Path, build: BuildConfig) -> str:
    """A URL on an allowed host as it is, a path below the log's folder made absolute; raises `Fault` for others."""
    parts = urlsplit(place)
    if "://" in place:
        if parts.scheme not in REMOTE or parts.hostname not in build.allow_hosts:
            raise Fault("forbidden_picture")
        return parts.geturl()
    root = log.resolve()
    try:
        path = (root / place).resolve()
        if not path.is_relative_to(root):
            raise Fault("forbidden_picture")
        if not path.is_file():
            raise Fault("missing_picture")
    except (OSError, ValueError):  # no name that a file could have
        raise Fault("missing_picture") from None
    return str(path)


def decode(data: bytes) -> Image.Image:
    """The picture of these bytes, decoded to its end; raises `Fault`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(BytesIO(data))
            if picture.width * picture.height > MAX_PIXELS:
                raise Fault("large_picture")
            picture.load()  # verify() would pass a JPEG that is cut short
    except Image.DecompressionBombError:
        raise Fault("large_picture") from None
    except (OSError, SyntaxError, ValueError, EOFError, struct.error):
        raise Fault("damaged_picture") from None
    return picture
