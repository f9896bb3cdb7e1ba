"""The review page in headless Chromium, from file:// and in a sandboxed frame."""

import shutil

import pytest

from medseg.tracking.review import FLAGS, cut_scene, write_niivue
from medseg.tracking.review.page import read_script
from tests.tracking.review_pages import CODE, FORMULA, make_picture, make_scene, write_page

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

GREY = """([plane, x, y]) => {
  const canvas = document.querySelector(`canvas[data-plane="${plane}"]`);
  const spot = new OffscreenCanvas(1, 1).getContext("2d");
  spot.drawImage(canvas, -Math.floor(x * canvas.width), -Math.floor(y * canvas.height));
  return [...spot.getImageData(0, 0, 1, 1).data].slice(0, 3);
}"""
PICTURE = "() => document.querySelector('canvas[data-plane=axial]').toDataURL()"
STILL = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
STRIP = """() => {
  const canvas = document.querySelector("canvas.profile"); // of the axial slider
  const { data } = canvas.getContext("2d").getImageData(0, 6, canvas.width, 1);
  return Array.from({ length: canvas.width }, (_, at) => [...data.slice(4 * at, 4 * at + 3)]);
}"""
AMBER = (255, 180, 84)
IDS = {"best": 0.9, "10 two": 0.5, "9 one": 0.7, FORMULA + CODE: 0.1, "gone": None}


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    scenes = {name: make_scene("HU", is_shifted=name != "best") for name in IDS if name != "gone"}
    return write_page(tmp_path_factory.mktemp("page") / "review.html", scenes, IDS, total=5000)


@pytest.fixture
def open_file(browser):
    """Open a file; what goes wrong, and what is asked of a network, is found in `noise` at the end."""
    noise, contexts = [], []

    def open_(path, **options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: noise.append(message.text))
        page.on("pageerror", lambda error: noise.append(str(error)))
        page.on("request", lambda ask: None if ask.url == path.as_uri() else noise.append(ask.url))
        page.goto(path.as_uri())
        page.wait_for_selector("body[data-case], #absent:not([hidden])")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert noise == []


@pytest.fixture
def page(open_file, html):
    return open_file(html, viewport={"width": 1400, "height": 900})


def names(page):
    return page.locator("#body tr td:first-child").all_text_contents()


def choose(page, name):
    page.locator("#body td:first-child", has_text=name).click()
    expect_case(page, name)


def expect_case(page, name):
    sync_api.expect(page.locator("body")).to_have_attribute("data-case", name)


def grey(page, x, y, plane="axial"):
    page.evaluate(STILL)
    return page.evaluate(GREY, [plane, x, y])


def bare(page, name="best"):
    """Show a case without masks and crosshair, in grey as stored."""
    choose(page, name)
    page.keyboard.press("h")
    page.keyboard.press("x")
    page.select_option("#preset", "full")


def test_the_worst_stand_first_and_the_rest_is_told(page):
    assert names(page) == ["gone", FORMULA + CODE, "10 two", "9 one", "best"]
    assert page.inner_text("#count") == "5 cases, worst first. Only the worst 5 of 5000 are in this page."


def test_a_click_on_a_head_sorts_and_another_turns_it_round(page):
    page.click("th[data-key=score] button")
    assert names(page) == [FORMULA + CODE, "10 two", "9 one", "best", "gone"]
    page.click("th[data-key=score] button")
    assert names(page) == ["best", "9 one", "10 two", FORMULA + CODE, "gone"]


def test_ids_sort_by_their_numbers(page):
    page.click("th[data-key=id] button")
    assert [name for name in names(page) if name[0].isdigit()] == ["9 one", "10 two"]


def test_text_and_flags_filter(page):
    page.fill("#search", "9 ON")
    assert names(page) == ["9 one"]
    page.fill("#search", "")
    page.click("[data-flag=failed]")
    assert names(page) == ["gone"]
    assert page.inner_text("#count").startswith("1 of 5 cases")


def test_every_flag_has_a_button(page):
    flags = page.locator("#flags button").evaluate_all(
        "buttons => buttons.map(button => button.dataset.flag)"
    )
    assert flags == list(FLAGS)


def test_lengths_are_told_with_their_unit_and_the_tolerance(open_file, tmp_path):
    scores = {"a": 0.5, "b": 0.75}
    scan = open_file(write_page(tmp_path / "scan.html", {"a": make_scene()}, scores, tolerance=1.5))
    assert "NSD (1.5\xa0mm)" in scan.inner_text("#head") and "HD95 mm" in scan.inner_text("#measures")
    assert "in mm" in scan.get_attribute("th[data-key=hd95] button", "title")
    picture = open_file(write_page(tmp_path / "picture.html", {"a": make_picture(1)}, scores, tolerance=2))
    assert "NSD (2\xa0px)" in picture.inner_text("#head") and "HD95 px" in picture.inner_text("#measures")
    assert "in px" in picture.get_attribute("th[data-key=hd95] button", "title")
    pictures = {"a": make_picture(1), "b": make_scene()}
    both = open_file(write_page(tmp_path / "both.html", pictures, scores, tolerance=2))
    assert "NSD (2\xa0mm or px)" in both.inner_text("#head") and "HD95 px" in both.inner_text("#measures")


def test_small_numbers_keep_three_digits(open_file, tmp_path):
    path = write_page(tmp_path / "a.html", {"a": make_scene()}, {"a": 0.5})
    path.write_text(path.read_text().replace('"volumes":{"organ":2.5}', '"volumes":{"organ":0.0043219}'))
    page = open_file(path)
    assert page.locator("#body td").all_text_contents()[-3:] == ["0.00432", "2.00", "0.5"]


def test_j_and_k_go_through_the_cases_as_sorted(page):
    page.click("th[data-key=score] button")
    choose(page, "10 two")
    page.keyboard.press("j")
    expect_case(page, "9 one")
    assert page.inner_text("#name") == "9 one"
    page.keyboard.press("k")
    expect_case(page, "10 two")


def test_a_case_without_images_says_so(page):
    page.locator("#body td:first-child", has_text="gone").click()
    assert page.inner_text("#absent") == "There is no mask to show."
    assert page.inner_text("#reasons") == "NII_CRC: damaged"


def test_the_slider_changes_the_slice(page):
    bare(page)
    for position in (2, 9):
        page.locator('[aria-label="axial slice"]').fill(str(position))
        assert grey(page, 0.55, 0.5) == [20 * position] * 3


def test_the_patients_right_is_on_the_left(page):
    bare(page)
    page.locator('[aria-label="axial slice"]').fill("5")
    assert grey(page, 0.45, 0.5) == [135] * 3
    assert grey(page, 0.55, 0.5) == [100] * 3


def test_superior_is_up_and_thick_slices_are_as_thick_as_they_are(page):
    bare(page)
    page.evaluate(STILL)
    box = page.locator("canvas[data-plane=coronal]").bounding_box()
    # 12 slices of 2.5 mm are 30 mm high, and fill the height; 24 voxels of 1 mm are 24 mm wide.
    scale = box["height"] / 30
    edge = 12 * scale / box["width"]
    assert grey(page, 0.55, 0.4 / 12, "coronal") == [220] * 3
    assert grey(page, 0.55, 11.6 / 12, "coronal") == [0] * 3
    assert grey(page, 0.5 - edge + 0.02, 0.4 / 12, "coronal") == [255] * 3
    assert grey(page, 0.5 - edge - 0.02, 0.4 / 12, "coronal") == [0] * 3


def test_the_wheel_turns_slices_and_a_click_links_the_planes(page):
    bare(page)
    page.locator('[aria-label="axial slice"]').fill("5")
    page.hover("canvas[data-plane=axial]")
    page.mouse.wheel(0, 80)
    assert grey(page, 0.55, 0.5) == [60] * 3
    page.locator("canvas[data-plane=coronal]").click(position={"x": 100, "y": 1})
    assert grey(page, 0.55, 0.5) == [220] * 3
    assert "12/12" in page.inner_text("#readout")


def test_keys_turn_slices(page):
    bare(page)
    page.locator('[aria-label="axial slice"]').fill("5")
    page.locator("#name").click()
    page.keyboard.press("ArrowUp")
    assert grey(page, 0.55, 0.5) == [120] * 3
    page.keyboard.press("PageDown")
    assert grey(page, 0.55, 0.5) == [20] * 3


def test_scroll_and_window_tools_drag(page):
    bare(page)
    page.locator('[aria-label="axial slice"]').fill("5")
    box = page.locator("canvas[data-plane=axial]").bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def drag(x, y):
        page.mouse.move(*middle)
        page.mouse.down()
        page.mouse.move(middle[0] + x, middle[1] + y)
        page.mouse.up()

    page.click("[data-drag=scroll]")
    drag(0, -12)
    assert grey(page, 0.55, 0.5) == [140] * 3
    page.click("[data-drag=window]")
    drag(box["width"], 0)
    assert page.input_value("#preset") == "custom"
    assert grey(page, 0.55, 0.5)[0] == pytest.approx(255 * (140 + 127.5) / 510, abs=2)


def test_presets_change_grey(page):
    bare(page)
    page.locator('[aria-label="axial slice"]').fill("5")
    page.select_option("#preset", "brain")
    assert grey(page, 0.55, 0.5) == [255] * 3
    page.select_option("#preset", "soft tissue")
    assert grey(page, 0.55, 0.5)[0] == pytest.approx(255 * (100 + 160) / 400, abs=1)
    assert page.inner_text("#window") == "W 400 L 40.0"
    page.locator("#name").click()
    page.keyboard.press("w")
    assert page.input_value("#preset") == "lung"


def test_the_automatic_window_fits_the_structures(page):
    choose(page, "best")
    page.evaluate(STILL)
    # Slices 4 to 7 are 20 * 4 to 20 * 7 + 35; half of that width lies to either side.
    assert page.inner_text("#window") == "W 190 L 128"


def error_spots(page):
    """Return x of a false positive and a false negative column of voxels in the axial plane."""
    box = page.locator("canvas[data-plane=axial]").bounding_box()
    scale = min(box["height"] / 30, box["width"] / 24)  # the coronal and sagittal planes are 30 mm high
    return [0.5 + (12 - i - 0.5) * scale / box["width"] for i in (16, 8)]


def test_errors_are_orange_where_too_much_and_blue_where_too_little(page):
    choose(page, "10 two")
    for key in "rpex":
        page.keyboard.press(key)
    page.locator("#opacity").fill("100")
    positive, negative = error_spots(page)
    assert grey(page, positive, 0.5) == [255, 158, 44]
    assert grey(page, negative, 0.5) == [51, 214, 255]


def test_each_layer_is_toggled_by_key_and_button(page):
    choose(page, "10 two")
    page.keyboard.press("x")
    page.evaluate(STILL)
    for layer, key in (("reference", "r"), ("predicted", "p"), ("errors", "e")):
        before = page.evaluate(PICTURE)
        page.keyboard.press(key)
        page.evaluate(STILL)
        assert page.evaluate(PICTURE) != before
        page.click(f"[data-layer={layer}]")
        page.evaluate(STILL)
        assert page.evaluate(PICTURE) == before


def test_opacity_fills_a_mask_that_is_shown_alone(page):
    choose(page, "best")
    for key in "px":
        page.keyboard.press(key)
    page.locator("#opacity").fill("0")
    before = grey(page, 0.52, 0.42)
    page.locator("#opacity").fill("100")
    assert grey(page, 0.52, 0.42) != before


def test_m_goes_to_the_largest_error_and_says_what_is_there(page):
    choose(page, "10 two")
    page.keyboard.press("m")
    page.evaluate(STILL)
    told = page.inner_text("#readout")
    reference, predicted = told.split("Reference ")[1].split("Prediction ")
    assert reference.strip() != predicted.strip()


def go_to(page, *voxel):
    for plane, position in zip(("sagittal", "coronal", "axial"), voxel, strict=True):
        page.locator(f'[aria-label="{plane} slice"]').fill(str(position))
    page.evaluate(STILL)


def test_what_was_not_evaluated_is_no_error_and_is_said(open_file, tmp_path):
    scene = make_scene(is_shifted=False)
    scene.predicted[0:5, 0:5, 1] = 9
    scene.reference[0:5, 0:5, 10] = 9
    page = open_file(write_page(tmp_path / "a.html", {"a": scene}, {"a": 0.5}))
    before = page.inner_text("#readout")
    page.keyboard.press("m")
    page.evaluate(STILL)
    assert page.inner_text("#readout") == before  # there is no error to go to
    assert AMBER not in [tuple(colour) for colour in page.evaluate(STRIP)]
    go_to(page, 2, 2, 1)
    assert page.inner_text("#readout").endswith("Reference nothing   Prediction not evaluated   ")
    go_to(page, 2, 2, 10)
    assert page.inner_text("#readout").endswith("Reference not evaluated   Prediction nothing   ")


@pytest.mark.parametrize(("ignores", "told"), [(True, "ignored"), (False, "not evaluated")])
def test_what_the_reference_ignores_is_no_error(open_file, tmp_path, ignores, told):
    scene = make_scene(is_shifted=False)
    scene.reference[0:5, 0:5, 10] = 9
    scene.predicted[0:5, 0:5, 10] = 1
    page = open_file(write_page(tmp_path / "a.html", {"a": scene}, {"a": 0.5}, ignores=ignores))
    assert (AMBER in [tuple(colour) for colour in page.evaluate(STRIP)]) is not ignores
    go_to(page, 2, 2, 10)
    assert page.inner_text("#readout").endswith(f"Reference {told}   Prediction organ   ")


def test_one_structure_is_drawn_alone(page):
    choose(page, "best")
    page.keyboard.press("x")
    page.evaluate(STILL)
    before = page.evaluate(PICTURE)
    page.select_option("#structure", "2")
    page.evaluate(STILL)
    assert page.evaluate(PICTURE) != before


def test_a_plane_is_enlarged_and_zoomed(page):
    choose(page, "best")
    page.click('[aria-label="enlarge axial"]')
    page.evaluate(STILL)
    assert page.locator(".pane:visible").count() == 1
    box = page.locator("canvas[data-plane=axial]").bounding_box()
    assert box["width"] > 600
    page.keyboard.press("+")
    page.keyboard.press("f")
    page.keyboard.press("-")
    page.dblclick("canvas[data-plane=axial]")
    page.evaluate(STILL)
    assert page.locator(".pane:visible").count() == 3


def test_zoom_keeps_the_crosshair_in_view(page):
    bare(page)
    page.locator('[aria-label="axial slice"]').fill("5")
    page.locator('[aria-label="sagittal slice"]').fill("1")
    page.evaluate(STILL)
    page.locator("#name").click()
    for _ in range(8):
        page.keyboard.press("+")
    # The patient's left is on the right: there the image is dark grey up to the edge.
    assert grey(page, 0.2, 0.5) == [100] * 3


def test_question_mark_shows_and_hides_the_keys(page):
    page.keyboard.press("?")
    assert page.locator("#keys").is_visible()
    page.keyboard.press("j")
    page.keyboard.press("?")
    assert not page.locator("#keys").is_visible()


def test_nothing_of_a_case_is_executed(page):
    page.click("#provenance summary")
    assert page.inner_text("#title") == CODE
    assert FORMULA + CODE in page.content().replace("&lt;", "<").replace("&gt;", ">")
    assert page.evaluate("window.stolen") is None
    assert page.locator("img").count() == 0


def test_the_policy_stops_scripts_and_connections_of_others(browser, html):
    context = browser.new_context()
    page = context.new_page()
    asked = []
    page.on("request", lambda ask: asked.append(ask.url) if ask.url.startswith("http") else None)
    page.goto(html.as_uri())
    page.evaluate("""async () => {
      const script = document.createElement("script");
      script.textContent = "window.stolen = 1";
      document.body.append(script);
      await fetch("http://127.0.0.1:9/").catch(() => null);
    }""")
    assert page.evaluate("window.stolen") is None
    context.close()


@pytest.mark.parametrize("way", ["src", "srcdoc"])
def test_the_page_works_in_a_sandboxed_frame(browser, html, tmp_path, way):
    host = tmp_path / "host.html"
    host.write_text('<iframe sandbox="allow-scripts" width="1100" height="800"></iframe>')
    noise = []
    context = browser.new_context()
    page = context.new_page()
    page.on("console", lambda message: noise.append(message.text))
    page.on("pageerror", lambda error: noise.append(str(error)))
    page.goto(host.as_uri())
    value = html.as_uri() if way == "src" else html.read_text()
    page.evaluate("([way, value]) => { document.querySelector('iframe')[way] = value; }", [way, value])
    frame = page.frame_locator("iframe")
    frame.locator("#body td:first-child", has_text="best").click()
    sync_api.expect(frame.locator("body")).to_have_attribute("data-case", "best")
    frame.locator("body").press("x")
    frame.locator("body").press("h")
    frame.locator("#preset").select_option("full")
    frame.locator('[aria-label="axial slice"]').fill("5")
    inner = page.frames[1]
    inner.evaluate(STILL)
    assert inner.evaluate(GREY, ["axial", 0.55, 0.5]) == [100] * 3
    assert noise == []
    context.close()


def test_a_tablet_gets_one_column_and_touch(open_file, html):
    page = open_file(html, viewport={"width": 820, "height": 1180}, has_touch=True, device_scale_factor=2)
    assert page.evaluate("document.documentElement.scrollWidth") <= 820
    choose(page, "best")
    page.keyboard.press("x")
    page.keyboard.press("h")
    page.select_option("#preset", "full")
    page.evaluate("scrollTo(0, 0)")
    page.keyboard.press("k")
    page.keyboard.press("j")
    expect_case(page, "best")
    assert page.evaluate("scrollY") == 0  # the images stay in sight
    page.evaluate(STILL)
    box = page.locator("canvas[data-plane=coronal]").bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + 2)
    assert grey(page, 0.55, 0.5) == [220] * 3


def test_a_phone_gets_one_plane_below_the_other(open_file, html):
    page = open_file(html, viewport={"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_picture_has_one_plane_its_first_axis_downwards(open_file, tmp_path):
    page = open_file(write_page(tmp_path / "a.html", {"a": make_picture(1)}, {"a": 0.5}))
    page.keyboard.press("h")
    page.keyboard.press("x")
    page.select_option("#preset", "full")
    assert page.locator(".pane").count() == 1
    assert grey(page, 0.5, 0.25, "picture") == [200] * 3
    assert grey(page, 0.5, 0.75, "picture") == [0] * 3
    assert "Pixel" in page.inner_text("#readout")


def test_three_channels_of_a_picture_are_its_colours(open_file, tmp_path):
    page = open_file(write_page(tmp_path / "a.html", {"a": make_picture(3)}, {"a": 0.5}))
    page.keyboard.press("h")
    page.keyboard.press("x")
    assert grey(page, 0.5, 0.25, "picture") == [200, 0, 0]
    assert not page.locator("#channel").is_visible()


def test_a_channel_is_chosen(open_file, tmp_path):
    scene = make_picture(2)
    page = open_file(write_page(tmp_path / "a.html", {"a": scene}, {"a": 0.5}))
    page.keyboard.press("h")
    page.keyboard.press("x")
    page.select_option("#preset", "full")
    page.keyboard.press("c")
    assert grey(page, 0.5, 0.25, "picture") == [0] * 3
    assert page.input_value("#channel") == "1"


def test_an_old_browser_is_told_what_it_lacks(browser, html):
    context = browser.new_context()
    page = context.new_page()
    page.add_init_script("delete window.DecompressionStream")
    page.goto(html.as_uri())
    assert "DecompressionStream" in page.inner_text("#absent")
    assert len(names(page)) == 5
    context.close()


@pytest.mark.parametrize("has_webgl", [True, False])
def test_a_niivue_page_says_where_webgl_is_missing_and_asks_no_network(browser, tmp_path, has_webgl):
    scene = make_scene()
    path = tmp_path / "a.html"
    write_niivue(path, CODE, cut_scene(scene, [1, 2], 10**6), scene.geometry)
    context, asked = browser.new_context(), []
    page = context.new_page()
    page.on("request", lambda ask: asked.append(ask.url) if ask.url.startswith("http") else None)
    if not has_webgl:
        page.add_init_script("HTMLCanvasElement.prototype.getContext = () => null")
    page.goto(path.as_uri())
    page.wait_for_selector("body[data-ready], #message:not([hidden])")
    is_told = "needs WebGL2" in page.inner_text("#message") if page.is_visible("#message") else False
    assert is_told or has_webgl  # the browser of a test may have none, too
    assert page.inner_text("#title") == CODE
    assert page.evaluate("window.stolen") is None
    assert asked == []
    context.close()


def test_the_script_asks_for_nothing_that_a_sandbox_forbids():
    script = read_script()
    for word in ("localStorage", "sessionStorage", "document.cookie", "innerHTML", "eval(", "fetch(", "http"):
        assert word not in script
