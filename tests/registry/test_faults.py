"""A disk that is full, read-only or broken: refused in words, nothing acknowledged, nothing half.

Errors come from the kernel where it lets us mount a small file system, and from strace at every
call that changes the disk. Reads go on meanwhile.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from rootstock_adapters.base_card import BaseCard
from rootstock_registry import BlobStore, Lineage, NewPart, Registry
from rootstock_registry.errors import NotFound, RegistryError, StorageFull, Unavailable

from tests.registry.crashing import at_every_call
from tests.registry.scenes import Scene, Scenes, whole
from tests.registry.tracing import Acknowledge, can_trace, forked

Head = Callable[[float], NewPart]
POINTS = 10  # `make soak` takes all
_NEW_USERS, _NEW_MOUNTS = 0x10000000, 0x00020000
_READ_ONLY, _REMOUNT, _BIND, _RECURSIVE, _PRIVATE = 1, 32, 1 << 12, 1 << 14, 1 << 18


@pytest.fixture
def scenes(tmp_path: Path, card: BaseCard, head: Head, lineage: Lineage) -> Scenes:
    return Scenes(tmp_path / "scenes", card, head, lineage)


def mount(
    kind: bytes | None,
    place: Path,
    flags: int,
    options: bytes | None = None,
    source: Path = Path("tmpfs"),
) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(os.fsencode(source), os.fsencode(place), kind, flags, options):
        raise OSError(ctypes.get_errno(), "mount")


def alone() -> None:
    """This process's mounts become its own; they end with it."""
    user, group = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEW_MOUNTS | (_NEW_USERS if user else 0)):
        raise OSError(ctypes.get_errno(), "unshare")
    if user:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    mount(None, Path("/"), _PRIVATE | _RECURSIVE)


def can_mount(folder: Path) -> bool:
    def work(_: Acknowledge) -> None:
        alone()
        mount(b"tmpfs", folder, 0, b"size=64k")

    return forked(work)[0] == 0


def in_small_disk(folder: Path, size: str, work: Callable[[], None]) -> None:
    """`work` in a child that finds an empty file system of `size` at `folder`."""
    folder.mkdir(exist_ok=True)
    if not can_mount(folder):
        pytest.skip("this system does not let us mount")

    def child(acknowledge: Acknowledge) -> None:
        alone()
        mount(b"tmpfs", folder, 0, f"size={size}".encode())
        work()
        acknowledge("done")

    status, lines, errors = forked(child)
    assert (status, lines) == (0, ["done"]), errors


def test_a_full_disk_refuses_a_publish_whole_and_takes_it_when_there_is_room(
    tmp_path: Path, scenes: Scenes
) -> None:
    disk = tmp_path / "disk"
    scene = scenes.publishing()

    def work() -> None:
        refused = taken = 0
        for room in range(0, 400, 12):
            home = scene.fresh(disk / "home")
            statistics = os.statvfs(disk)
            free = statistics.f_bavail * statistics.f_frsize
            filler = disk / "filler"
            filler.write_bytes(bytes(free - room * 1024))
            acknowledged = None
            try:
                acknowledged = scene.work(home)
                taken += 1
            except Unavailable as error:
                assert "room" in error.message or "full" in error.message
                refused += 1
            assert sorted(home.rglob(".put-*")) == []
            filler.unlink()
            registry = Registry(home)
            scene.check(registry, acknowledged)
            registry.close()
        assert refused > 5
        assert taken > 5

    in_small_disk(disk, "4m", work)


def test_a_read_only_disk_refuses_in_words_and_serves_what_it_has(
    tmp_path: Path, scenes: Scenes
) -> None:
    disk = tmp_path / "disk"

    def work() -> None:
        home = disk / "home"
        shutil.copytree(tmp_path / "scenes" / "garbage", home)
        registry = Registry(home)
        mount(None, home / "blobs", _BIND, source=home / "blobs")
        mount(None, home / "blobs", _BIND | _REMOUNT | _READ_ONLY)
        for attempt in (
            lambda: scenes.publish(registry, 4.0),
            lambda: registry.blobs.put(b"new"),
            lambda: registry.blobs.put_stream([b"new"]),
            lambda: registry.gc(grace_s=0),
            lambda: BlobStore(home / "blobs" / "elsewhere"),
        ):
            with pytest.raises(Unavailable, match="read-only; mount it writable"):
                attempt()
        assert whole(registry) == [scenes.first, scenes.second]
        assert ctypes.CDLL(None).umount(os.fsencode(home / "blobs")) == 0
        digest = scenes.publish(registry, 4.0)
        assert whole(registry) == [scenes.first, scenes.second, digest]
        registry.close()
        mount(None, disk, _REMOUNT | _READ_ONLY)
        with pytest.raises(RegistryError, match=r"registry\.db"):
            Registry(home)
        assert BlobStore(home / "blobs").get(digest)

    in_small_disk(disk, "4m", work)


@pytest.mark.skipif(not can_trace(), reason="strace is not here or may not attach")
@pytest.mark.parametrize("fault", ["EIO", "ENOSPC", "EROFS"])
@pytest.mark.parametrize("name", ["publishing", "collecting"])
def test_an_error_at_any_call_that_changes_the_disk_is_refused_in_words(
    scenes: Scenes, home: Path, name: str, fault: str
) -> None:
    scene: Scene = getattr(scenes, name)()
    refused = 0
    for point, outcome in at_every_call(scene, home, f"error={fault}", POINTS):
        if outcome.acknowledged:
            assert outcome.status == 0, (point, outcome)
        elif "Error: [Errno" in outcome.errors.splitlines()[-1]:
            assert "in forked" in outcome.errors.splitlines()[-4], (point, outcome)  # the answer
        else:
            last = outcome.errors.splitlines()[-1]
            assert "rootstock_registry.errors." in last, (point, outcome)
            refused += 1
    assert refused > 5


def test_a_limit_on_the_size_of_files_is_a_full_disk(tmp_path: Path) -> None:
    def work(acknowledge: Acknowledge) -> None:
        blobs = BlobStore(tmp_path / "blobs")
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        for attempt in (lambda: blobs.put(bytes(8192)), lambda: blobs.put_stream([bytes(8192)])):
            with pytest.raises(StorageFull, match=r"no room is left in .*blobs"):
                attempt()
        acknowledge(blobs.put(bytes(4096)).replace(":", "-"))

    status, lines, errors = forked(work)
    assert status == 0, errors
    assert len(lines) == 1
    assert sum(path.is_file() for path in (tmp_path / "blobs").rglob("*")) == 1


def test_each_error_of_the_disk_has_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = BlobStore(tmp_path / "blobs")
    digest = blobs.put(b"hello")
    words = {
        errno.ENOSPC: "no room is left",
        errno.EDQUOT: "no room is left",
        errno.EROFS: "read-only; mount it writable",
        errno.EACCES: "no permission",
        errno.EIO: "input/output error; look at the system's log",
        errno.EMFILE: "Too many open files",
    }
    for number, expected in words.items():

        def fails(*_: object, number: int = number, **__: object) -> int:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(os, "open", fails)
            with pytest.raises(Unavailable, match=expected):
                blobs.get(digest)
    shutil.rmtree(tmp_path / "blobs")
    with pytest.raises(Unavailable, match="a folder is gone"):
        blobs.put(b"other")
    with pytest.raises(NotFound):
        blobs.get(digest)
