"""docs/ as a site: it builds without a warning, shows every page, and fetches nothing from elsewhere."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from tests.shown import ROOT

CHROMIUM = shutil.which("chromium")
# What a browser loads by itself; a link is followed by a reader.
LOADED = re.compile(
    r"<(?:script|img|iframe|source|video|audio|embed|object)\b[^>]*?(?:src|data)=[\"']?([^\"'\s>]+)"
)
LINKED = re.compile(r"<link\b[^>]*?href=[\"']?([^\"'\s>]+)")
STYLED = re.compile(r"(?:url\(|@import\s+)[\"']?((?:https?:)?//[^\"')\s]+)")
ELSEWHERE = re.compile(r"(?:https?:)?//")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    return folder


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


def list_nav(entries: list) -> Iterator[str]:
    for entry in entries:
        for target in entry.values():
            yield from [target] if isinstance(target, str) else list_nav(target)


def test_every_page_is_in_the_navigation_once():
    listed = list(list_nav(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    pages = {path.name for path in (ROOT / "docs").glob("*.md")}
    assert len(listed) == len(set(listed))
    assert pages <= set(listed)
    assert [page for page in set(listed) - pages if not (ROOT / page).is_file()] == []


def test_every_entry_of_the_navigation_is_a_page(site):
    listed = list_nav(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    names = [page.replace("README.md", "index.md").removesuffix(".md") + ".html" for page in listed]
    assert [name for name in names if not (site / name).is_file()] == []


def test_no_page_loads_anything_from_another_host(site):
    pages = sorted(site.rglob("*.html"))
    loaded = {url for page in pages for kind in (LOADED, LINKED) for url in kind.findall(page.read_text())}
    styles = {url for sheet in site.rglob("*.css") for url in STYLED.findall(sheet.read_text())}
    assert len(loaded) > 5 and [url for url in loaded if ELSEWHERE.match(url)] == []
    assert [url for url in styles if "www.w3.org" not in url] == []  # the name of SVG, not an address


def test_links_beside_docs_lead_to_files_of_the_site(site):
    page = (site / "licences.html").read_text()
    assert 'href="LICENSE"' in page and (site / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


def test_the_reference_shows_signatures_and_docstrings(site):
    page = (site / "api.html").read_text()
    assert "medseg.inference.model.load_model" in page and "trust_code" in page and "Raises" in page


def test_scripts_of_the_documentation_are_not_pages(site):
    assert list(site.rglob("*.py")) == []


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: no page is looked at")
def test_search_finds_a_page_and_asks_nobody_else(address):
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    asked: list[str] = []
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1300, "height": 900})
        page.set_default_timeout(60_000)
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{address}index.html")
        page.get_by_role("textbox", name="Search").first.fill("mirroring")
        page.locator(".md-search-result__item a").first.wait_for()
        browser.close()
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
