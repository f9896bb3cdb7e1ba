"""What a run looks like in MLflow's own interface, in a browser, as another machine would open it.

The server listens on 127.0.0.2, an address that MLflow does not take for loopback.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medseg.tracking.store import start_run
from tests.tracking.review_pages import make_scene, write_page

CHROMIUM = shutil.which("chromium")
SERVE = (
    "from medseg.tracking.ui import serve;"
    "serve(0, '127.0.0.2', is_open=True, announce=lambda link: print(link, flush=True))"
)
SCORES = {"good": 0.9, "bad": 0.04}
LEVELS = """
const levels = [...document.images].filter(image => image.src.includes('artifact')).map(image => {
    const canvas = document.createElement('canvas'), draw = canvas.getContext('2d')
    draw.drawImage(image, 0, 0)
    return draw.getImageData(2, 2, 1, 1).data[0]
})"""  # the grey of every picture of the run that is shown
STILL = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
WAIT_MS = 90_000  # the machine may be busy

pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: no page is looked at"),
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux answers on every address of 127.0.0.0/8"),
]


def paint(level: int) -> bytes:
    """Return a grey PNG."""
    from matplotlib.image import imsave

    stream = BytesIO()
    imsave(stream, np.full((8, 8, 3), level, np.uint8), format="png")
    return stream.getvalue()


def track(page: Path) -> str:
    """Log a run with one of everything and return its id."""
    tracker = start_run("page", "a run", params={"model": {"name": "unet"}})
    for step in range(3):
        tracker.log_metrics({"train/loss": 1.0 / (1 + step), "val/dice": 0.3 * step}, step)
        tracker.log_image(paint(80 * step), "validation", step)
    tracker.log_dataset("cohort", "c0ffee" * 10, {"cases": 6}, "training")
    tracker.log_table([{"id": "case-a", "dice": 0.8125}, {"id": "case-b", "dice": None}], "cases.json")
    tracker.log_artifact(page)
    tracker.end()
    return tracker.run_id


class Site:
    """MLflow in a browser, and what it asked for."""

    def __init__(self, page: Any, link: str, run_id: str, said: str) -> None:
        self.page, self.link, self.said = page, link, said
        self.address, _, fragment = link.partition("/#")
        self.run = f"{self.address}/#{fragment.split('?')[0]}/{run_id}"
        self.asked: list[str] = []
        self.refused: list[str] = []
        self.noise: list[tuple[str, str]] = []  # from where, what
        self.framed: list[tuple[Any, str]] = []  # which frame asked, for what
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("request", lambda request: self.framed.append((request.frame, request.url)))
        page.on("console", lambda message: self.noise.append((message.location["url"], message.text)))
        page.on("pageerror", lambda error: self.noise.append((error.stack or "", str(error))))
        page.on("response", lambda answer: self.refused.append(answer.url) if answer.status == 403 else None)

    def open(self, part: str = "") -> Any:
        self.page.goto(f"{self.run}{part}?workflowType=machine_learning")
        return self.page


@pytest.fixture(scope="module")
def site(tracking_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    log = tmp_path_factory.mktemp("ui") / "stderr.txt"
    with pytest.MonkeyPatch.context() as patch, log.open("w") as stream:
        patch.setenv("MEDSEG_HOME", str(tracking_home))
        scenes = {name: make_scene(is_shifted=name == "bad") for name in SCORES}
        run_id = track(write_page(log.with_name("review.html"), scenes, SCORES))
        command = [sys.executable, "-c", SERVE]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stream, text=True)
    assert server.stdout is not None
    with server, playwright.sync_playwright() as play:
        link = server.stdout.readline().strip()
        assert link, log.read_text()
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 1600})
        page.set_default_timeout(WAIT_MS)
        yield Site(page, link, run_id, log.read_text())
        browser.close()
        server.terminate()


def test_the_printed_link_shows_the_run_with_our_columns(site: Site):
    site.page.goto(site.link)
    site.page.get_by_text("a run", exact=True).first.wait_for()
    site.page.get_by_text("val/dice", exact=True).first.wait_for()


def test_overview_names_the_data_and_the_settings(site: Site):
    page = site.open()
    page.get_by_text("model.name", exact=True).wait_for()
    page.get_by_text("cohort (c0ffee").first.wait_for()


def test_metrics_are_charts_grouped_by_what_stands_before_the_slash(site: Site):
    page = site.open("/model-metrics")
    for group in ("train", "val"):
        page.get_by_text(group, exact=True).first.wait_for()
    page.locator(".js-plotly-plot .scatterlayer .trace").nth(1).wait_for(state="attached")


def test_a_case_is_shown_by_step_and_the_slider_moves_it(site: Site):
    page = site.open("/model-metrics")
    slider = page.get_by_role("slider").last
    slider.scroll_into_view_if_needed()
    for step in range(3):  # it begins at step 0, which is why there must be a picture of it
        page.wait_for_function(f"() => {{ {LEVELS}; return levels.includes({80 * step}) }}")
        slider.focus()
        slider.press("ArrowRight")


def test_cases_are_a_table(site: Site):
    page = site.open("/artifacts/cases.json")
    page.get_by_text("View as table").wait_for()
    page.get_by_text("0.8125", exact=True).wait_for()


@pytest.fixture(scope="module")
def frame(site: Site) -> Any:
    """Return the frame in which MLflow shows the review page, a case of it open."""
    page = site.open("/artifacts")
    page.get_by_text("review.html", exact=True).first.click()
    frame = page.frame_locator("iframe").first
    frame.locator("body[data-case=bad]").wait_for(state="attached")
    return frame


def test_the_review_page_runs_inside_its_frame(site: Site, frame: Any):
    page = site.page
    frame.locator("#body td:first-child", has_text="bad").click()  # keys go where the last click was
    for key, case in (("j", "good"), ("k", "bad")):
        page.keyboard.press(key)
        frame.locator(f"body[data-case={case}]").wait_for(state="attached")
    slider, shown = frame.locator('[aria-label="axial slice"]'), "canvas => canvas.toDataURL()"
    before = frame.locator("canvas[data-plane=axial]").evaluate(shown)
    slider.fill("1")
    page.wait_for_timeout(200)
    assert frame.locator("canvas[data-plane=axial]").evaluate(shown) != before


def test_the_table_sorts_and_filters_inside_its_frame(frame: Any):
    names = frame.locator("#body td:first-child")
    for expected in (["bad", "good"], ["good", "bad"]):
        frame.locator("th[data-key=score] button").click()
        assert names.all_text_contents() == expected
    frame.locator("#search").fill("GOO")
    assert names.all_text_contents() == ["good"]
    frame.locator("#search").fill("")
    for expected in (["bad"], ["good", "bad"]):
        frame.locator("[data-flag=unlike]").click()
        assert names.all_text_contents() == expected


def test_overlays_toggle_inside_the_frame(site: Site, frame: Any):
    frame.locator("#body td:first-child", has_text="bad").click()
    frame.locator("body[data-case=bad]").wait_for(state="attached")
    body = frame.locator("body")
    canvas, shown = frame.locator("canvas[data-plane=axial]"), "canvas => canvas.toDataURL()"
    for layer, key in (("reference", "r"), ("predicted", "p"), ("errors", "e")):
        body.evaluate(STILL)
        before = canvas.evaluate(shown)
        site.page.keyboard.press(key)
        body.evaluate(STILL)
        assert canvas.evaluate(shown) != before
        frame.locator(f"[data-layer={layer}]").click()
        body.evaluate(STILL)
        assert canvas.evaluate(shown) == before


def test_the_review_page_says_nothing_on_the_console_and_asks_for_nothing(site: Site, frame: Any):
    inner = [part for part in site.page.frames if part.parent_frame]
    assert len(inner) == 1 and frame.locator("#title").is_visible()
    mlflow = tuple(f"{site.address}/{part}" for part in ("static-files/", "ajax-api/"))  # is not quiet itself
    assert [text for origin, text in site.noise if not origin.startswith(mlflow)] == []
    assert [url for part, url in site.framed if part in inner and url != part.url] == []


def test_nothing_was_asked_of_another_machine_and_nothing_refused(site: Site):
    strangers = [url for url in site.asked if not url.startswith((site.address, "data:", "blob:"))]
    assert site.asked and strangers == [] and site.refused == []


def test_what_is_missing_was_said(site: Site):
    assert site.said.count("UI_OPEN") == 3
    assert "no login" in site.said and "it answers to 127.0.0.2" in site.said
