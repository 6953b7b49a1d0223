"""A template and its values become an answer that loads nothing from elsewhere.

Refuses to know what is shown, and who asks.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from rootstock_server.errors import RootstockError

READS = ("GET", "HEAD")
# What the script of a page asks for, and what its links lead to.
READ_BY_PAGES = ("/v1/fine_tuning/jobs/", "/v1/files/")
CHALLENGE = 'Basic realm="Rootstock"'
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


def utc(seconds: int) -> str:
    """`2026-05-01 12:00:00`, as the script writes it, too."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


# Names, messages and file names are whatever somebody sent: nothing is written unescaped.
TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters["utc"] = utc


def is_page(method: str, path: str) -> bool:
    """Whether a browser that asks for `path` wants HTML: also where there is no such page."""
    return method in READS and (path == "/jobs" or path.startswith(("/jobs/", "/jobs.")))


def takes_password(method: str, path: str) -> bool:
    """Whether a key may come as a password, which is how a browser sends one.

    Only for reading: a browser also sends it where a foreign site has made it ask.
    """
    return is_page(method, path) or (method in READS and path.startswith(READ_BY_PAGES))


def page(template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """`template` filled with `values` and `status`."""
    text = TEMPLATES.get_template(template).render(values, status=status)
    return HTMLResponse(text, status, HEADERS)


def refusal(error: RootstockError, status: int) -> HTMLResponse:
    """The error in words, for somebody in front of a browser."""
    answer = page("refused.html", status, message=error.message)
    if status == 401:
        answer.headers["www-authenticate"] = CHALLENGE
    if error.retry_after_s is not None:
        answer.headers["retry-after"] = str(error.retry_after_s)
    return answer
