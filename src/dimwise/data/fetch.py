"""Downloads: resumed where they stopped, checked byte for byte, unpacked without trusting the archive."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import shutil
import tarfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dimwise import __version__
from dimwise.data import data_folder
from dimwise.data.find import where
from dimwise.errors import DataError, nearest
from dimwise.progress import SILENT, Bar, Progress

TIMEOUT_S = 30
CHUNK_BYTES = 1 << 18


@dataclass(frozen=True)
class RemoteFile:
    """A file as its publisher made it: where to get it, and how to know that it is the right one."""

    name: str
    urls: tuple[str, ...]
    """Mirrors, the fastest or safest first."""
    size_bytes: int
    sha256: str
    unpacks_to: str = ""
    """For an archive: the one folder that it holds."""


@dataclass(frozen=True)
class Download:
    """The files of one data set and the sub-folder of the data folder they go to."""

    folder: str
    files: tuple[RemoteFile, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes over the network when nothing is there yet."""
        return sum(file.size_bytes for file in self.files)


_MNIST = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")
_FASHION = (
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
)
_SST2 = ("https://raw.githubusercontent.com/clairett/pytorch-sentiment-classification/master/data/SST2/",)
_CIFAR = ("https://www.cs.toronto.edu/~kriz/", "https://cave.cs.toronto.edu/kriz/")


def _file(bases: tuple[str, ...], name: str, size_bytes: int, sha256: str, unpacks_to: str = "") -> RemoteFile:
    return RemoteFile(name, tuple(base + name for base in bases), size_bytes, sha256, unpacks_to)


DOWNLOADS: dict[str, Download] = {
    "mnist": Download(
        "mnist",
        (
            _file(
                _MNIST,
                "train-images-idx3-ubyte.gz",
                9912422,
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            ),
            _file(
                _MNIST,
                "train-labels-idx1-ubyte.gz",
                28881,
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            ),
            _file(
                _MNIST,
                "t10k-images-idx3-ubyte.gz",
                1648877,
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            ),
            _file(
                _MNIST,
                "t10k-labels-idx1-ubyte.gz",
                4542,
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            ),
        ),
    ),
    "fashion": Download(
        "fashion_mnist",
        (
            _file(
                _FASHION,
                "train-images-idx3-ubyte.gz",
                26421880,
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            ),
            _file(
                _FASHION,
                "train-labels-idx1-ubyte.gz",
                29515,
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            ),
            _file(
                _FASHION,
                "t10k-images-idx3-ubyte.gz",
                4422102,
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            ),
            _file(
                _FASHION,
                "t10k-labels-idx1-ubyte.gz",
                5148,
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            ),
        ),
    ),
    # The binary layout: the same images as the python one, without pickle.
    "cifar10": Download(
        "cifar10",
        (
            _file(
                _CIFAR,
                "cifar-10-binary.tar.gz",
                170052171,
                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
                "cifar-10-batches-bin",
            ),
        ),
    ),
    "cifar100": Download(
        "cifar100",
        (
            _file(
                _CIFAR,
                "cifar-100-binary.tar.gz",
                168513733,
                "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
                "cifar-100-binary",
            ),
        ),
    ),
    # Whole sentences with the published split, as most comparisons take it; the treebank itself has trees.
    "sst2": Download(
        "sst2",
        (
            _file(_SST2, "train.tsv", 720259, "ec192f833a64da08f475488a77b0d0b47db47acd0f458bd18433fc793b569920"),
            _file(_SST2, "dev.tsv", 92057, "eddea6b39e601dd4e7a672b53cc40fdf6019fa80522f351206c24340ca5d9359"),
            _file(_SST2, "test.tsv", 188749, "831169c7e2e429d6026e1bdbb542f33b636e3e596caad9602ebc953c205928b7"),
        ),
    ),
}


def fetch(
    name: str,
    data_dir: Path | None = None,
    *,
    progress: Progress = SILENT,
    downloads: Mapping[str, Download] = DOWNLOADS,
) -> Path:
    """Download what is missing of a named data set and return where it lies.

    Args:
        name: a key of ``downloads``.
        data_dir: where the sets lie; ``None`` as in :func:`dimwise.data.load`.
        progress: shows bytes.
        downloads: what exists where; for tests and private mirrors.

    Raises:
        DataError: unknown name, no network, a folder that cannot be written, a file that is not what was promised.
    """
    if name not in downloads:
        raise DataError(
            f"{name!r} cannot be fetched",
            expected="one of: " + ", ".join(downloads),
            next_step=nearest(name, downloads),
        )
    root = data_folder(data_dir)
    there = where(name, root)
    if there is not None:
        return there
    folder = root / downloads[name].folder
    with _writable(folder), _locked(folder):
        wanted = [file for file in downloads[name].files if not _is_there(file, folder)]
        for file in wanted:
            _get(file, folder, progress)
    return folder


def _is_there(file: RemoteFile, folder: Path) -> bool:
    if file.unpacks_to:
        return (folder / file.unpacks_to).is_dir()
    return (folder / file.name).exists() or (folder / file.name.removesuffix(".gz")).exists()


def _get(file: RemoteFile, folder: Path, progress: Progress) -> None:
    target = folder / file.name
    brought_along = target.exists()
    if not brought_along:
        with progress.stage(f"fetch {file.name}", total=file.size_bytes) as bar:
            download(file, target, bar)
    if file.unpacks_to:
        if brought_along and (found := sha256_of(target)) != file.sha256:
            raise DataError(
                f"{target} has SHA-256 {found}",
                expected=file.sha256,
                next_step="Delete it, then fetch again.",
            )
        progress.say(f"unpacking {file.name}")
        unpack(target, folder, only=file.unpacks_to)
        if not brought_along:
            target.unlink()


@contextlib.contextmanager
def _writable(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise DataError(
            f"cannot write to {folder} ({error.strerror or error})",
            expected="a folder with room that you may write to",
            next_step="Name one with --data-dir or DIMWISE_DATA.",
        ) from None


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    from filelock import FileLock

    with FileLock(folder / ".lock"):
        yield


def download(file: RemoteFile, target: Path, bar: Bar) -> None:
    """Bring one file to ``target``, going on from ``target.part`` where an earlier attempt stopped.

    Raises:
        DataError: no mirror could be reached, the transfer stopped early, or the content is not the promised one.
    """
    part = target.with_name(target.name + ".part")
    problem = DataError(f"{file.name} has no address")
    for url in file.urls:
        try:
            _transfer(url, part, file.size_bytes, bar)
            found = sha256_of(part)
            if found == file.sha256:
                part.replace(target)
                return
            part.unlink()
            problem = DataError(
                f"{url} sent a file with SHA-256 {found}",
                expected=file.sha256,
                next_step=f"It was removed. Try again, or put {file.name} under {target.parent}.",
            )
        except _Failed as failed:
            problem = DataError(f"{failed}", next_step=_by_hand(file, target, part))
    raise problem


def _by_hand(file: RemoteFile, target: Path, part: Path) -> str:
    kept = f"{part.stat().st_size} bytes are kept: try again to go on from there, or " if part.exists() else ""
    step = f"{kept}put {file.name} under {target.parent}, or name the folder that has it with --data-dir."
    return step[0].upper() + step[1:]


class _Failed(Exception):
    """This mirror did not deliver; the text says why."""


def _transfer(url: str, part: Path, size_bytes: int, bar: Bar) -> None:
    """Append to ``part`` until it has ``size_bytes``; ask again as long as that brings something."""
    while True:
        start = part.stat().st_size if part.exists() else 0
        if start > size_bytes:
            part.unlink()
            start = 0
        if start == size_bytes:
            return
        try:
            _append(url, part, start, size_bytes, bar)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416 and start:  # what we kept does not fit what is there now
                part.unlink()
                continue
            raise _Failed(f"{url} answered {error.code} {error.reason}") from None
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            reached = part.stat().st_size if part.exists() else 0
            if reached <= start:
                raise _Failed(f"could not reach {url} ({getattr(error, 'reason', error)})") from None
        reached = part.stat().st_size if part.exists() else 0
        if (reached <= start and start > 0) or reached == 0:
            raise _Failed(f"{url} stopped after {reached} of {size_bytes} bytes")


def _append(url: str, part: Path, start: int, size_bytes: int, bar: Bar) -> None:
    headers = {"User-Agent": f"dimwise/{__version__}"}
    if start:
        headers["Range"] = f"bytes={start}-"
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S) as answer:
        resumed = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        done = start if resumed else 0
        promised = answer.headers.get("Content-Length")
        if promised is not None and done + int(promised) != size_bytes:
            raise _Failed(f"{url} is {done + int(promised)} bytes, expected {size_bytes}")
        with part.open("ab" if resumed else "wb") as file:
            while chunk := _chunk(answer):
                done += len(chunk)
                if done > size_bytes:
                    raise _Failed(f"{url} sends more than the expected {size_bytes} bytes")
                file.write(chunk)
                bar.update(done, f"{done / 1e6:.1f} of {size_bytes / 1e6:.1f} MB")


def _chunk(answer: http.client.HTTPResponse) -> bytes:
    try:
        return answer.read(CHUNK_BYTES)
    except OSError as error:  # so that what goes wrong here is not taken for a full disk
        raise ConnectionError(str(error)) from None


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unpack(archive: Path, folder: Path, *, only: str) -> Path:
    """Unpack a .tar.gz whose every member lies in one folder, ``only``; nothing else is ever created.

    Only plain files and folders are accepted, each is written by us under a temporary name (so no link, device,
    owner or mode of the archive counts), and the finished folder is renamed into place.

    Raises:
        DataError: the archive is damaged, or holds a link or a path that leads elsewhere.
    """
    partial = folder / f"{only}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                inside = _inside(member, only, archive)
                if member.isdir():
                    (partial / inside).mkdir(parents=True, exist_ok=True)
                    continue
                content = tar.extractfile(member)
                assert content is not None  # only regular files get here
                (partial / inside).parent.mkdir(parents=True, exist_ok=True)
                with content, (partial / inside).open("wb") as file:
                    shutil.copyfileobj(content, file, CHUNK_BYTES)
    except (tarfile.TarError, EOFError, ValueError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise DataError(f"{archive} is damaged ({error})", next_step="Delete it, then fetch again.") from None
    except DataError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(folder / only, ignore_errors=True)
    return partial.replace(folder / only)


def _inside(member: tarfile.TarInfo, only: str, archive: Path) -> PurePosixPath:
    path = PurePosixPath(member.name)
    plain = (member.isfile() and not member.issparse()) or member.isdir()
    stays = not path.is_absolute() and ".." not in path.parts and "\\" not in member.name and ":" not in member.name
    if not plain or not stays or path.parts[:1] != (only,):
        raise DataError(
            f"{archive} holds {member.name!r}, which is a link or leads outside of {only}/",
            expected="plain files in one folder",
            next_step="Do not use this archive.",
        )
    return PurePosixPath(*path.parts[1:])
