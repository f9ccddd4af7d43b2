from __future__ import annotations

import hashlib
import http.server
import io
import os
import socket
import tarfile
import threading
from pathlib import Path

import pytest

from dimwise.data.fetch import DOWNLOADS, Download, RemoteFile, fetch, sha256_of, unpack
from dimwise.errors import DataError

CONTENT = bytes(range(256)) * 400


class Server(http.server.ThreadingHTTPServer):
    """Serves one file; ``ranges`` honours Range, ``stop_at`` closes the line after so many bytes of the file."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.ranges, self.hide_length = CONTENT, True, False
        self.stop_at: list[int] = []
        self.asked: list[str | None] = []

    def address(self, name="a.bin"):
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        server = self.server
        wanted = self.headers.get("Range")
        server.asked.append(wanted)
        if self.path == "/absent":
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and server.ranges else 0
        if start > len(server.content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        if not server.hide_length:
            self.send_header("Content-Length", str(len(server.content) - start))
        self.end_headers()
        end = server.stop_at.pop(0) if server.stop_at else len(server.content)
        self.wfile.write(server.content[start:end])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    made = Server()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


def toy(*urls, content=CONTENT, name="a.bin", unpacks_to=""):
    file = RemoteFile(name, urls, len(content), hashlib.sha256(content).hexdigest(), unpacks_to)
    return {"toy": Download("toy", (file,))}


def test_a_file_arrives_whole_and_is_not_fetched_twice(server, tmp_path):
    for _ in range(2):
        folder = fetch("toy", tmp_path, downloads=toy(server.address()))
        assert folder == tmp_path / "toy"
        assert (folder / "a.bin").read_bytes() == CONTENT
    assert server.asked == [None]
    assert sorted(path.name for path in folder.iterdir()) in (["a.bin"], [".lock", "a.bin"])


def test_an_interrupted_download_goes_on_where_it_stopped(server, tmp_path):
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "a.bin.part").write_bytes(CONTENT[:1000])
    folder = fetch("toy", tmp_path, downloads=toy(server.address()))
    assert (folder / "a.bin").read_bytes() == CONTENT
    assert server.asked == ["bytes=1000-"]
    assert not (folder / "a.bin.part").exists()


def test_a_line_that_breaks_is_taken_up_again(server, tmp_path):
    server.stop_at = [5000, 70000]
    folder = fetch("toy", tmp_path, downloads=toy(server.address()))
    assert (folder / "a.bin").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=5000-", "bytes=70000-"]


def test_a_server_that_cannot_resume_starts_anew(server, tmp_path):
    server.ranges = False
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "a.bin.part").write_bytes(b"x" * 1000)
    folder = fetch("toy", tmp_path, downloads=toy(server.address()))
    assert (folder / "a.bin").read_bytes() == CONTENT


def test_what_was_kept_is_complete_or_too_long(server, tmp_path):
    (tmp_path / "toy").mkdir()
    part = tmp_path / "toy" / "a.bin.part"
    part.write_bytes(CONTENT)
    fetch("toy", tmp_path, downloads=toy(server.address()))
    assert server.asked == []
    (tmp_path / "toy" / "a.bin").unlink()
    part.write_bytes(CONTENT + b"more")
    fetch("toy", tmp_path, downloads=toy(server.address()))
    assert server.asked == [None]


def test_truncated_for_good_says_how_far_it_came_and_keeps_it(server, tmp_path):
    server.stop_at = [5000] + [0] * 9
    with pytest.raises(
        DataError,
        match=rf"/a\.bin stopped after 5000 of {len(CONTENT)} bytes\. 5000 bytes are kept: try again to go on",
    ):
        fetch("toy", tmp_path, downloads=toy(server.address()))
    assert (tmp_path / "toy" / "a.bin.part").stat().st_size == 5000
    server.stop_at = []
    fetch("toy", tmp_path, downloads=toy(server.address()))


def test_a_wrong_checksum_is_never_kept(server, tmp_path):
    server.content = CONTENT[::-1]
    found = hashlib.sha256(server.content).hexdigest()
    expected = hashlib.sha256(CONTENT).hexdigest()
    with pytest.raises(
        DataError, match=rf"/a\.bin sent a file with SHA-256 {found}; expected {expected}\. It was removed"
    ):
        fetch("toy", tmp_path, downloads=toy(server.address()))
    assert not list((tmp_path / "toy").glob("a.bin*"))


def test_a_wrong_size_is_seen_before_it_is_loaded(server, tmp_path):
    server.content = b"<html>please log in</html>"
    with pytest.raises(DataError, match=rf"/a\.bin is 26 bytes, expected {len(CONTENT)}"):
        fetch("toy", tmp_path, downloads=toy(server.address()))


def test_more_than_promised_is_cut_off(server, tmp_path):
    server.hide_length, server.content = True, CONTENT * 9
    with pytest.raises(DataError, match=rf"sends more than the expected {len(CONTENT)} bytes"):
        fetch("toy", tmp_path, downloads=toy(server.address()))


def test_the_next_mirror_is_tried(server, tmp_path):
    folder = fetch("toy", tmp_path, downloads=toy(server.address("absent"), server.address()))
    assert (folder / "a.bin").read_bytes() == CONTENT


def test_an_answer_that_is_an_error(server, tmp_path):
    with pytest.raises(DataError, match=r"/absent answered 404 Not Found\. Put a\.bin under .*toy, or name the folder"):
        fetch("toy", tmp_path, downloads=toy(server.address("absent")))


def test_no_network(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    with socket.socket() as free:  # bound but not listening: nobody answers there
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/a.bin"
        with pytest.raises(
            DataError,
            match=r"could not reach http://127\.0\.0\.1.* \(.*refused\)\. Put a\.bin under .*toy, or .*--data-dir\.",
        ):
            fetch("toy", tmp_path, downloads=toy(url))


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match=r"cannot write to .*file/toy \(Not a directory\).*--data-dir or DIMWISE_DATA"):
        fetch("toy", tmp_path / "file", downloads=toy("http://127.0.0.1:9/a.bin"))


def test_a_full_disk(server, tmp_path, monkeypatch):
    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(DataError, match=r"cannot write to .*toy \(No space left on device\)"):
        fetch("toy", tmp_path, downloads=toy(server.address()))


def test_an_unknown_name():
    with pytest.raises(DataError, match=r"'minst' cannot be fetched; expected one of: mnist.*did you mean 'mnist'\?"):
        fetch("minst")


def test_progress_reports_bytes(server, tmp_path):
    from contextlib import contextmanager

    from dimwise.progress import Progress

    seen = []

    class Told(Progress):
        @contextmanager
        def stage(self, name, total=None):
            seen.append((name, total))
            yield self

        def update(self, done, note=""):
            seen.append((done, note))

    fetch("toy", tmp_path, progress=Told(), downloads=toy(server.address()))
    assert seen[0] == ("fetch a.bin", len(CONTENT))
    assert seen[-1] == (len(CONTENT), "0.1 of 0.1 MB")


def archive(*members):
    """A .tar.gz of (name, content or TarInfo changes)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content, *kind in members:
            info = tarfile.TarInfo(name)
            info.size = 0 if kind else len(content)
            if kind:
                info.type, info.linkname = kind[0], content
            tar.addfile(info, None if kind else io.BytesIO(content))
    return buffer.getvalue()


def test_an_archive_is_unpacked_and_then_removed(server, tmp_path):
    server.content = archive(("set", "", tarfile.DIRTYPE), ("set/a.bin", b"hello"), ("set/deep/b.bin", b"you"))
    downloads = toy(server.address(), content=server.content, name="set.tar.gz", unpacks_to="set")
    folder = fetch("toy", tmp_path, downloads=downloads)
    assert (folder / "set" / "a.bin").read_bytes() == b"hello"
    assert (folder / "set" / "deep" / "b.bin").read_bytes() == b"you"
    assert sorted(path.name for path in folder.iterdir() if path.name != ".lock") == ["set"]


def test_an_archive_that_was_put_there_is_used_and_kept(server, tmp_path):
    content = archive(("set/a.bin", b"hello"))
    downloads = toy(server.address(), content=content, name="set.tar.gz", unpacks_to="set")
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "set.tar.gz").write_bytes(content)
    assert (fetch("toy", tmp_path, downloads=downloads) / "set" / "a.bin").exists()
    assert server.asked == []
    assert (tmp_path / "toy" / "set.tar.gz").exists()


def test_an_archive_that_was_put_there_and_is_another_one(server, tmp_path):
    downloads = toy(server.address(), name="set.tar.gz", unpacks_to="set")
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "set.tar.gz").write_bytes(b"other")
    with pytest.raises(DataError, match=rf"set\.tar\.gz has SHA-256 {hashlib.sha256(b'other').hexdigest()}; expected"):
        fetch("toy", tmp_path, downloads=downloads)


@pytest.mark.parametrize(
    "member",
    [
        ("set/../../evil", b"x"),
        ("/etc/evil", b"x"),
        ("elsewhere/evil", b"x"),
        ("set/..\\evil", b"x"),
        ("set/link", "/etc/passwd", tarfile.SYMTYPE),
        ("set/link", "set/a.bin", tarfile.LNKTYPE),
        ("set/device", "", tarfile.CHRTYPE),
    ],
)
def test_members_that_lead_elsewhere_are_refused(tmp_path, member):
    path = tmp_path / "a.tar.gz"
    path.write_bytes(archive(("set/a.bin", b"hello"), member))
    with pytest.raises(DataError, match="a link or leads outside of set/"):
        unpack(path, tmp_path / "out", only="set")
    assert list((tmp_path / "out").iterdir()) == []
    assert not (tmp_path / "evil").exists()


def test_a_damaged_archive(tmp_path):
    path = tmp_path / "a.tar.gz"
    path.write_bytes(archive(("set/a.bin", os.urandom(100_000)))[:5000])
    with pytest.raises(DataError, match=r"a\.tar\.gz is damaged"):
        unpack(path, tmp_path / "out", only="set")
    assert list((tmp_path / "out").iterdir()) == []


def test_the_table_of_downloads_is_complete():
    for download in DOWNLOADS.values():
        for file in download.files:
            assert len(file.sha256) == 64
            assert all(url.startswith("http") and url.endswith(file.name) for url in file.urls)
            assert file.size_bytes > 1000


@pytest.mark.real
def test_label_files_that_are_the_publishers_own(data_dir):
    for file in DOWNLOADS["fashion"].files:
        if "labels" in file.name:
            assert sha256_of(data_dir / "fashion_mnist" / file.name) == file.sha256


@pytest.mark.real
def test_what_is_there_is_not_fetched(data_dir):
    assert fetch("mnist", data_dir) == data_dir / "mnist"
