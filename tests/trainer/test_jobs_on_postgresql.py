"""A home whose rows lie in PostgreSQL: the command, the worker and the sidecar all find them."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psycopg
from rootstock_registry import Registry, storage

from tests.registry.databases import own_postgresql


def command(home: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "rootstock_cli.main", *words, "--home", str(home)]


def rootstock(home: Path, *words: str) -> str:
    done = subprocess.run(command(home, *words), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_jobs_by_hand_and_by_the_sidecar_end_in_the_shared_database(
    encoder_folder: Path, reviews_csv: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    asked = ("train", "--method", "head", "--base", f"reader={encoder_folder}")
    asked += ("--data", str(reviews_csv), "--as", "mood")
    with own_postgresql() as server:
        with psycopg.connect(f"{server}/postgres", autocommit=True) as admin:
            admin.execute("CREATE DATABASE rootstock")
        storage.remember(home, f"{server}/rootstock", None, 64)
        assert "mood:1" in rootstock(home, *asked)
        job = rootstock(home, *asked, "--label-column", "about", "--detach").strip()
        registry = Registry(home)
        sidecar = subprocess.Popen(command(home, "sidecar"), stderr=subprocess.PIPE)
        try:
            end = time.monotonic() + 600
            while registry.job(job).finished_at is None and time.monotonic() < end:
                time.sleep(0.1)
            sidecar.terminate()
            assert sidecar.wait(120) == 0
        finally:
            sidecar.kill()
            sidecar.communicate()
        ended = registry.job(job)
        assert (ended.state, ended.error) == ("succeeded", None)
        assert registry.resolve("local", "mood:2").digest == ended.version_digest
        registry.close()
        assert not (home / "registry.db").exists()
