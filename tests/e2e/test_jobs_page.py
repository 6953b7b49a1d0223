"""The page of a job in a real browser: open before the job begins, current until it has ended."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from rootstock_registry import Job, Registry

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
EVIL = "<img src=x onerror='window.attacked = true'>"
SHOWN_MS, TRAINED_MS = 60_000, 600_000  # at most: a page is waited for until it says so
LEASE_S = 900.0
expect.set_options(timeout=SHOWN_MS)


@pytest.fixture
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium and no google-chrome is installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def test_the_curve_grows_without_a_reload_until_the_job_has_succeeded(
    filled, start_server, tiny: dict[str, Path], browser: Browser, tmp_path: Path
) -> None:
    registry: Registry = filled(tmp_path)
    held = held_job(registry, tiny["tiny"], tmp_path / "rows.jsonl")
    _, secret = registry.create_key("local", "publisher")
    bases = [f"tiny={tiny['tiny']}"]
    server = start_server(tmp_path, bases=bases, no_sidecar=False, no_auth=False)
    page = with_key(browser, secret)
    faults = heard(page)
    page.goto(f"{server.url}/jobs")
    expect(page.locator("#rows .status")).to_have_text("validating_files")
    registry.renew_job(held, LEASE_S, {"stage": "training", "done": 1, "total": 60})
    expect(page.locator("#rows")).to_contain_text("training 1/60")
    page.locator("#rows a").click()
    page.evaluate("window.opened = true")
    expect(page.locator("#events")).to_contain_text(EVIL)
    expect(page.locator("#status")).to_have_text("running")
    dots = page.locator("#curve circle.training")
    assert dots.count() == 0
    for step in (1, 2):
        told = {"step": step, "total_steps": 60, "train_loss": 7.0}
        registry.tell_job(held, f"Step {step}/60", told)
        expect(dots).to_have_count(step)
    registry.release_job(held)  # the sidecar has waited for this
    expect(page.locator("#status")).to_have_text("succeeded", timeout=TRAINED_MS)
    expect(page.locator("#version")).to_have_text("clerk:1")
    assert dots.count() > 10
    assert page.locator("#curve circle.validation").count() > 0
    expect(page.locator("#files a")).to_have_count(2)
    with page.expect_download() as download:
        page.locator("#files a").first.click()
    assert download.value.path().read_text().startswith("step,train_loss,valid_loss")
    assert page.evaluate("window.opened && !window.attacked")
    assert not faults
    page.goto(f"{server.url}/jobs")
    expect(page.locator("#rows .status")).to_have_text("succeeded")
    registry.close()
    assert server.stop() == 0


def held_job(registry: Registry, base: Path, file: Path) -> Job:
    """A job that we are at work on, as far as others can see, with markup in its story."""
    rows = [{"prompt": f"the quick {n}", "completion": " brown fox jumps"} for n in range(32)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = {
        "method": "lora", "base": "tiny", "base_path": str(base), "data": str(file),
        "name": "clerk",
        "hyperparameters": {"n_epochs": 20, "early_stopping": 1000},
    }  # fmt: skip
    job = registry.submit_job("local", spec)
    held = registry.claim_job("somebody", LEASE_S, job.id)
    assert held is not None
    registry.tell_job(held, EVIL)
    return held


def with_key(browser: Browser, secret: str) -> Page:
    """Somebody who types the key in where the browser asks for a password."""
    return browser.new_page(http_credentials={"username": "somebody", "password": secret})


def heard(page: Page) -> list[str]:
    """What the page's script throws and what the page is refused, as it happens."""
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda line: faults.append(line.text))
    return faults
