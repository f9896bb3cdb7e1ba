"""Stream the page into one file: style, markup, a block of data per case, the index, then the script.

Nothing of a case can become markup or code: data stand in `<script type="application/json">` blocks in which
`<`, `>` and `&` are escaped, the script puts them on the page as text only, and the page's own policy lets no
other script run (it names the hash of this one) and no connection be made.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import IO, Any

from medseg.core.files import atomic_path

SCRIPTS = (
    "dom.js",
    "decode.js",
    "slices.js",
    "pane.js",
    "layers.js",
    "viewer.js",
    "table.js",
    "summary.js",
    "main.js",
)
ESCAPES = str.maketrans(
    {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
)


class PageWriter:
    """An open page: blocks of cases in any order, then the index."""

    def __init__(self, stream: IO[str]) -> None:
        """Take an open text file, which may hold something already."""
        self._stream, self._blocks = stream, 0

    def add_case(self, block: Mapping[str, Any]) -> int:
        """Write the images of a case, and return the number that the index refers to it by."""
        number, self._blocks = self._blocks, self._blocks + 1
        self._stream.write(
            f'<script type="application/json" id="case-{number}">{escape_json(block)}</script>\n'
        )
        return number

    def finish(self, index: Mapping[str, Any]) -> None:
        """Write the index and the script.

        Args:
            index: Title, verdict, facts, labels, cases and so on: of `workflows.review.describe`.
        """
        self._stream.write(f'<script type="application/json" id="index">{escape_json(index)}</script>\n')
        self._stream.write(f"<script>{read_script()}</script>\n</body>\n</html>\n")


@contextmanager
def open_page(path: Path, title: str) -> Iterator[PageWriter]:
    """Yield a page that is at `path` once the block ends well, and nowhere if not."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as stream:
        style = read_asset("page.css")
        stream.write(
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f"{write_policy(style, read_script())}"
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            '<meta name="referrer" content="no-referrer">\n<link rel="icon" href="data:,">\n'
            f"<title>{html.escape(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n"
            f"{read_asset('page.html')}"
        )
        yield PageWriter(stream)


def write_policy(style: str, script: str) -> str:
    """Return the meta tag that allows this style and this script, and nothing else."""
    return (
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; connect-src 'none'; "
        f"img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'\">\n"
    )


def escape_json(value: Any) -> str:
    """Return JSON that can end neither a script block nor a line of one."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return text.translate(ESCAPES)


def read_asset(name: str) -> str:
    """Return a file that belongs to the page."""
    return (files("medseg.tracking.review") / "assets" / name).read_text(encoding="utf-8")


def read_script() -> str:
    """Return the whole script: the files share one scope of their own."""
    parts = "\n".join(read_asset(name) for name in SCRIPTS)
    return f'(() => {{\n"use strict";\n{parts}\n}})();\n'


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
