"""The page at `/`: a client of the HTTP interface in the browser, from three files that come with the package."""

from importlib.resources import files

from fastapi import FastAPI
from fastapi.responses import Response

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy: the browser itself refuses whatever isn't from this server, scripts in answers too."""
KINDS = {"index.html": "text/html", "page.js": "text/javascript", "page.css": "text/css"}


def mount_page(app: FastAPI) -> None:
    """Add the page and its files. They ask the same routes as any client, so keys and limits hold for them, too."""
    for name, kind in KINDS.items():
        _add_file(app, "/" if name == "index.html" else f"/page/{name}", name, kind)


def _add_file(app: FastAPI, path: str, name: str, kind: str) -> None:
    text = files(__name__).joinpath(name).read_text(encoding="utf-8")
    headers = {
        "content-security-policy": POLICY,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",
    }

    @app.get(path, include_in_schema=False)
    async def file() -> Response:
        return Response(text, media_type=kind, headers=headers)
