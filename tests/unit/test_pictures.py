"""Pictures by path, archive and URL: within limits, decoded to their end, and never from where they must not come."""

import http.server
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from uniadgen.config import BuildConfig
from uniadgen.data import pictures

BUILD = BuildConfig(max_picture_bytes=50_000, picture_timeout=2.0, picture_tries=2, allow_hosts=("allowed.example",))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A folder with good.jpg, one that is cut short, no pictures, and an archive; secret.jpg lies outside."""
    folder = tmp_path / "log"
    folder.mkdir()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(folder / "good.jpg")
    data = (folder / "good.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(data[: len(data) // 2])
    (folder / "page.jpg").write_text("<html>not found</html>")
    (folder / "empty.jpg").touch()
    Image.fromarray(rng.integers(0, 255, (200, 200, 3), dtype=np.uint8)).save(folder / "large.png")
    Image.new("1", (8001, 8001)).save(folder / "vast.png")
    (tmp_path / "secret.jpg").write_bytes(data)
    with zipfile.ZipFile(folder / "all.zip", "w") as archive:
        archive.write(folder / "good.jpg", "inner/good.jpg")
        archive.write(folder / "cut.jpg", "cut.jpg")
        archive.writestr("../../secret.jpg", data)
        archive.writestr("bomb.jpg", bytes(5_000_000), zipfile.ZIP_DEFLATED)
    (folder / "bad.zip").write_text("no archive")
    with tarfile.open(folder / "all.tar.gz", "w:gz") as archive:
        archive.add(folder / "good.jpg", "inner/good.jpg")
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "../../secret.jpg"
        archive.addfile(link)
    (folder / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    return folder


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("good.jpg", ""),
        ("gone.jpg", "missing_picture"),
        ("a\0b", "missing_picture"),
        ("x" * 5000, "missing_picture"),
        ("cut.jpg", "damaged_picture"),
        ("page.jpg", "damaged_picture"),
        ("empty.jpg", "damaged_picture"),
        ("large.png", "large_picture"),
        ("vast.png", "large_picture"),
        ("../secret.jpg", "forbidden_picture"),
        ("/etc/hostname", "forbidden_picture"),
        ("file:///etc/hostname", "forbidden_picture"),
        ("file://localhost/etc/hostname", "forbidden_picture"),
        ("https://example.com/a.jpg", "forbidden_picture"),
        ("s3://bucket/a.jpg", "forbidden_picture"),
        ("zip://inner/good.jpg::all.zip", ""),
        ("zip://cut.jpg::all.zip", "damaged_picture"),
        ("zip://gone.jpg::all.zip", "missing_picture"),
        ("zip://good.jpg::bad.zip", "missing_picture"),
        ("zip://good.jpg::../all.zip", "forbidden_picture"),
        ("zip://../../secret.jpg::all.zip", ""),  # a member of that name; nothing is unpacked
        ("zip://bomb.jpg::all.zip", "large_picture"),
        ("tar://inner/good.jpg::all.tar.gz", ""),
        ("tar://link.jpg::all.tar.gz", "missing_picture"),
        ("link.jpg", "forbidden_picture"),
        ("http://[x", "forbidden_picture"),
        ("zip://a.jpg::http://[x", "forbidden_picture"),
        ("local://allowed.example/etc/hostname", "forbidden_picture"),
        ("git://allowed.example/etc/hostname", "forbidden_picture"),
        ("https://allowed.example@example.com/a.jpg", "forbidden_picture"),
        ("simplecache::https://example.com/a.jpg", "forbidden_picture"),
    ],
)
def test_what_is_wrong_with_a_picture(log: Path, name: str, expected: str) -> None:
    assert pictures.fault(name, log, BUILD) == expected


@pytest.fixture
def server(log: Path) -> Iterator[tuple[str, list[str]]]:
    """A web server of this machine: its address, and what was asked of it."""
    asked: list[str] = []
    data = (log / "good.jpg").read_bytes()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            if self.path in ("/parts.jpg", "/endless.jpg", "/slow.jpg"):
                self.give(self.path)
                return
            known = {"/good.jpg": (200, data), "/late.jpg": (200 if len(asked) > 1 else 503, data)}
            status, body = known.get(self.path, (404, b""))
            if self.path == "/moved.jpg":
                self.send_response(302)
                self.send_header("Location", "/good.jpg")
                body = b""
            else:
                self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def give(self, path: str) -> None:
            """In two parts, or for ever; the slow one after longer than it may take."""
            self.send_response(200)
            self.end_headers()
            with suppress(OSError):  # who asked has gone
                self.wfile.write(data[:200])
                while path != "/parts.jpg":
                    self.wfile.write(bytes(65_536) if path == "/endless.jpg" else b"x")
                    time.sleep(0.01)
                time.sleep(0.3)
                self.wfile.write(data[200:])

        def do_HEAD(self) -> None:
            self.send_response(405)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", asked
        running.shutdown()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("good.jpg", ""),
        ("gone.jpg", "missing_picture"),
        ("late.jpg", ""),
        ("moved.jpg", "damaged_picture"),
        ("parts.jpg", ""),
        ("endless.jpg", "large_picture"),
        ("slow.jpg", "missing_picture"),
    ],
)
def test_an_allowed_host_is_asked_within_limits(log: Path, server, monkeypatch, name: str, expected: str) -> None:
    monkeypatch.setattr(pictures, "PAUSE", 0.01)
    address, asked = server
    seconds = 0.5 if name == "slow.jpg" else 5.0
    allowed = BuildConfig(allow_hosts=("127.0.0.1",), picture_timeout=seconds, max_picture_bytes=200_000)
    assert pictures.fault(f"{address}/{name}", log, allowed) == expected
    assert "/good.jpg" not in asked or name == "good.jpg"
    asked.clear()
    assert pictures.fault(f"{address}/{name}", log, BUILD) == "forbidden_picture"
    assert asked == []
