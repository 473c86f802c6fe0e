"""The pages that medgrpo writes, in HTML or Markdown: templates beside the code, on one layout (`page.html.j2`)."""

import re
from functools import cache
from typing import Any

from medgrpo.fingerprint import PACKAGE, digest, file_digest

LAYOUT = "page.html.j2"


@cache
def load_template(name: str) -> Any:
    """A template below this package, such as `data/report.html.j2`: what it is given is escaped."""
    return _environment().get_template(name)


def template_digest(name: str) -> str:
    """Digest of a template with its layout: when it changes, a page is to be written anew."""
    return digest([file_digest(PACKAGE / name), file_digest(PACKAGE / LAYOUT)])


@cache
def _environment() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(PACKAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = lambda value: f"{value:,}"
    environment.filters["plain"] = plain
    return environment


def plain(text: str) -> str:
    """A text on one line in which Markdown sees nothing but text; HTML is the environment's to escape."""
    return re.sub(r"([\\`*_{}\[\]#|~$])", r"\\\1", " ".join(text.split()))
