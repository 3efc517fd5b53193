"""The page in a browser: files in, boxes and text out, errors in words, for hands, keyboards and ears."""

import io
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from PIL import ExifTags, Image

from ocr_onnx.data import PageResult
from tests.service_page.page_server import KEY, POLICY, WORDS, Server, drawn_page, encoded, result

if TYPE_CHECKING:
    from playwright.sync_api import Page

expect: Any = pytest.importorskip("playwright.sync_api", reason="needs the dependency group `browser`").expect

TEXT: Final = "\n".join(words for words, _ in WORDS)


def picture(name: str) -> dict[str, Any]:
    return {"name": name, "mimeType": "image/png", "buffer": encoded(drawn_page())}


def pdf(name: str) -> dict[str, Any]:
    return {"name": name, "mimeType": "application/pdf", "buffer": b"%PDF-1.7 not shown by the browser"}


def read(page: "Page", address: str, *files: dict[str, Any]) -> None:
    """Open the page and choose files."""
    page.goto(address)
    page.set_input_files("#files", list(files))


def hand_over(page: "Page", kind: str, name: str) -> None:
    """Drop or paste a picture, as a browser would tell the page of it."""
    page.evaluate(
        """([kind, name, bytes]) => {
          const data = new DataTransfer();
          data.items.add(new File([new Uint8Array(bytes)], name, { type: "image/png" }));
          const how = { bubbles: true, cancelable: true };
          if (kind === "paste") {
            document.dispatchEvent(new ClipboardEvent("paste", { ...how, clipboardData: data }));
          } else for (const step of ["dragover", "drop"]) {
            document.body.dispatchEvent(new DragEvent(step, { ...how, dataTransfer: data }));
          }
        }""",
        [kind, name, list(encoded(drawn_page()))],
    )


def clipboard(page: "Page") -> Any:
    return page.evaluate("navigator.clipboard.readText()")


def downloaded(page: "Page", button: str) -> tuple[str, str]:
    with page.expect_download() as download:
        page.click(button)
    return download.value.suggested_filename, Path(download.value.path()).read_text(encoding="utf-8")


# --- files in, text out; these run against a real service too


def test_the_page_loads_under_its_policy_and_tells_what_runs(page: "Page", address: str) -> None:
    answer = page.goto(address)
    assert answer is not None
    assert answer.headers["content-security-policy"] == POLICY
    expect(page.get_by_role("button", name="Choose files")).to_be_visible()
    expect(page.get_by_role("contentinfo")).to_contain_text("ocr-onnx 0.")
    expect(page.get_by_role("contentinfo")).to_contain_text("mobile")


def test_a_chosen_picture_is_shown_with_a_box_per_line(page: "Page", address: str) -> None:
    page.goto(address)
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Choose files").click()
    assert chooser.value.is_multiple()
    chooser.value.set_files([picture("bill.png")])
    expect(page.get_by_role("list", name="Lines of text")).to_contain_text("Whitby")
    expect(page.get_by_role("heading", name="bill.png")).to_be_visible()
    expect(page.locator(".sheet-image")).to_have_attribute("src", re.compile("^blob:"))
    expect(page.locator(".box")).to_have_count(page.locator(".row").count())
    assert page.locator(".row").count() > 5


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_files_may_be_dropped_and_pasted(page: "Page", address: str, kind: str) -> None:
    page.goto(address)
    hand_over(page, kind, "image.png")
    expect(page.locator(".row").first).to_be_visible()
    expect(page.locator("#picture-title")).to_have_text({"drop": "image.png", "paste": "pasted-1.png"}[kind])
    expect(page.locator("#drag")).to_be_hidden()


def test_boxes_lie_on_the_words(page: "Page", address: str) -> None:
    read(page, address, picture("bill.png"))
    row = page.locator(".row").filter(has_text="Whitby")
    row.hover()
    box, sheet = page.locator(".box.joined").bounding_box(), page.locator(".sheet").bounding_box()
    assert box is not None
    assert sheet is not None
    scale = sheet["width"] / 640
    assert (box["x"] - sheet["x"]) / scale == pytest.approx(60, abs=12)
    assert (box["y"] + box["height"] / 2 - sheet["y"]) / scale == pytest.approx(150, abs=12)


def test_hover_joins_a_box_and_its_line_both_ways(page: "Page", address: str) -> None:
    read(page, address, picture("bill.png"))
    rows, boxes = page.locator(".row"), page.locator(".box")
    rows.nth(2).hover()
    expect(boxes.nth(2)).to_have_class(re.compile("joined"))
    boxes.nth(4).hover()
    expect(rows.nth(4)).to_have_class(re.compile("joined"))
    expect(rows.nth(2)).not_to_have_class(re.compile("joined"))
    page.locator(".brand").hover()
    expect(page.locator(".joined")).to_have_count(0)
    boxes.nth(1).click()
    page.locator(".brand").hover()
    expect(rows.nth(1)).to_have_class(re.compile("joined"))


def test_the_keyboard_reaches_every_line_and_box(page: "Page", address: str) -> None:
    read(page, address, picture("bill.png"))
    rows, boxes = page.locator(".row"), page.locator(".box")
    expect(rows.first).to_be_visible()
    assert page.locator(".row[tabindex='0']").count() == page.locator(".box[tabindex='0']").count() == 1
    page.locator("#save-json").focus()
    page.keyboard.press("Tab")
    expect(rows.first).to_be_focused()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    expect(rows.nth(2)).to_be_focused()
    expect(boxes.nth(2)).to_have_class(re.compile("joined"))
    page.keyboard.press("Enter")
    assert clipboard(page) == rows.nth(2).locator(".row-text").text_content()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Copy line 3", exact=True)).to_be_focused()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("End")
    expect(rows.last).to_be_focused()
    page.locator("#stage").focus()
    page.keyboard.press("Tab")
    expect(boxes.last).to_be_focused()  # where the line is that was visited
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    expect(rows.nth(rows.count() - 2)).to_be_focused()


# --- what leaves the page


def test_copy_takes_all_lines_or_one(page: "Page", stub: Server) -> None:
    read(page, stub.url, picture("bill.png"))
    page.get_by_role("button", name="Copy all").click()
    expect(page.get_by_role("status")).to_have_text("Text copied")
    assert clipboard(page) == TEXT
    page.locator(".row").nth(8).hover()
    page.get_by_role("button", name="Copy line 9").click()
    expect(page.get_by_role("status")).to_have_text("Line copied")
    assert clipboard(page) == "<b>Service & VAT</b> included"


def test_copying_works_without_the_clipboard_interface(page: "Page", stub: Server) -> None:
    """Plain http on another machine's name has no navigator.clipboard."""
    page.add_init_script("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    read(page, stub.url, picture("bill.png"))
    page.get_by_role("button", name="Copy all").click()
    expect(page.get_by_role("status")).to_have_text("Text copied")
    expect(page.get_by_role("button", name="Copy all")).to_be_focused()


def test_downloads_hold_what_the_service_answered(page: "Page", stub: Server) -> None:
    read(page, stub.url, pdf("scan.pdf"))
    assert downloaded(page, "#save-txt") == ("scan.pdf-p1.txt", f"{TEXT}\n")
    name, text = downloaded(page, "#save-json")
    assert name == "scan.pdf-p1.json"
    assert json.loads(text) == result("scan.pdf", 0).to_dict()  # without the picture
    assert PageResult.from_dict(json.loads(text)) == result("scan.pdf", 0)


def test_downloads_of_all_pages(page: "Page", stub: Server) -> None:
    stub.go_on.set()
    read(page, stub.url, pdf("three.pdf"), picture("blank.png"))
    expect(page.locator(".page")).to_have_count(4)
    expect(page.locator("#work")).to_be_hidden()
    page.get_by_label("All pages").check()
    name, text = downloaded(page, "#save-json")
    assert name == "pages.json"
    pages = [result("three.pdf", 0), result("three.pdf", 2, 4), result("blank.png", None, 0)]
    assert json.loads(text) == [one.to_dict() for one in pages]
    name, text = downloaded(page, "#save-txt")
    assert name == "pages.txt"
    titles = ["==> three.pdf, page 1 <==\n", "\n==> three.pdf, page 3 <==\n", "\n==> blank.png <==\n"]
    assert text == "".join(
        title + (f"{one.text}\n" if one.text else "") for title, one in zip(titles, pages, strict=True)
    )


# --- several pages, pictures from the service


def test_pages_appear_as_they_are_read_and_a_bad_one_does_not_cost_the_others(
    page: "Page", stub: Server
) -> None:
    read(page, stub.url, pdf("three.pdf"), picture("later.png"))
    pages = page.locator(".page")
    expect(pages).to_have_count(3)  # the first, the one being read, and the file that waits
    expect(pages.nth(0)).to_contain_text("page 1, 10 lines")
    expect(pages.nth(1)).to_contain_text("reading")
    expect(pages.nth(2)).to_contain_text("waiting")
    expect(page.locator("#progress-text")).to_have_text("Reading 1 of 2 files, 1 page so far")
    expect(pages.nth(0)).to_have_attribute("aria-current", "page")
    expect(page.locator(".row")).to_have_count(10)
    stub.go_on.set()
    expect(pages).to_have_count(4)
    expect(pages.nth(1)).to_contain_text("not read")
    expect(page.locator("#work")).to_be_hidden()
    pages.nth(1).click()
    expect(page.locator(".error")).to_contain_text("three.pdf, page 2")
    expect(page.locator(".error")).to_contain_text("Its content is damaged.")
    pages.nth(2).click()
    expect(page.locator(".row")).to_have_count(4)
    expect(page.locator("#picture-size")).to_have_text("page 3, 640 × 820 px")


@pytest.mark.parametrize(("name", "beside"), [("scan.pdf", True), ("scan.tif", True), ("single.pdf", False)])
def test_the_service_draws_what_the_browser_cannot_show(
    page: "Page", stub: Server, name: str, beside: bool
) -> None:
    read(page, stub.url, pdf(name))
    expect(page.locator(".box")).to_have_count(10)
    assert stub.uploads == [(name, True, "application/x-ndjson")]
    expect(page.locator(".sheet.drawn-in")).to_be_visible()
    expect(page.locator(".sheet-image.beside")).to_have_count(int(beside))
    image, sheet = page.locator(".sheet-image").bounding_box(), page.locator(".sheet").bounding_box()
    assert image is not None
    assert sheet is not None
    assert image["width"] == pytest.approx(sheet["width"] * (2 if beside else 1), abs=1)
    assert image["height"] == pytest.approx(sheet["height"], abs=1)


def test_a_turned_photograph_is_shown_upright_under_its_boxes(page: "Page", stub: Server) -> None:
    turned = drawn_page().transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be turned clockwise
    file = io.BytesIO()
    turned.save(file, "JPEG", exif=exif)
    read(page, stub.url, {"name": "photo.jpg", "mimeType": "image/jpeg", "buffer": file.getvalue()})
    expect(page.locator(".row")).to_have_count(10)
    natural = page.locator(".sheet-image").evaluate("image => [image.naturalWidth, image.naturalHeight]")
    assert natural == [640, 820]
    dark = """image => {  // the share of dark pixels where the second line is said to be
      const canvas = document.createElement("canvas");
      [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
      const context = canvas.getContext("2d");
      context.drawImage(image, 0, 0);
      const { data } = context.getImageData(60, 130, 330, 40);
      return data.filter((value, at) => at % 4 === 1 && value < 128).length / (330 * 40);
    }"""
    assert page.locator(".sheet-image").evaluate(dark) > 0.05


def test_pictures_that_the_browser_shows_are_not_asked_back(page: "Page", stub: Server) -> None:
    read(page, stub.url, picture("bill.png"))
    expect(page.locator(".row")).to_have_count(10)
    assert stub.uploads == [("bill.png", False, "application/x-ndjson")]


def test_zoom_keeps_boxes_on_the_picture_and_fit_returns(page: "Page", stub: Server) -> None:
    read(page, stub.url, picture("bill.png"))
    expect(page.locator(".row")).to_have_count(10)  # while it is read, the picture stands there without boxes
    sheet = page.locator(".sheet")
    before = sheet.bounding_box()
    for _ in range(3):
        page.get_by_role("button", name="Larger").click()
    after = sheet.bounding_box()
    assert before is not None
    assert after is not None
    assert after["width"] == pytest.approx(3 * before["width"], rel=0.02)
    page.locator(".row").last.hover()
    expect(page.locator(".box").last).to_be_in_viewport()
    page.get_by_role("button", name="Fit").click()
    assert sheet.bounding_box() == before
    page.get_by_role("button", name="Show boxes").click()
    expect(page.get_by_role("button", name="Show boxes")).to_have_attribute("aria-pressed", "false")
    expect(page.locator(".box").first).to_have_css("stroke-opacity", "0")


def test_start_over_forgets_everything(page: "Page", stub: Server) -> None:
    read(page, stub.url, picture("slow.png"), picture("bill.png"))
    expect(page.locator("#notes")).to_contain_text("Reading")
    page.get_by_role("button", name="Start over").click()
    expect(page.get_by_role("button", name="Choose files")).to_be_focused()
    stub.go_on.set()
    page.set_input_files("#files", [picture("blank.png")])
    expect(page.locator("#notes")).to_have_text("No text was found on this page.")
    expect(page.locator(".page")).to_have_count(1)


# --- errors in words


@pytest.mark.parametrize(
    ("file", "problem", "remedy"),
    [
        ("large.png", "Has 300 MiB, more than the 256 MiB allowed.", "Send a smaller file."),
        ("bad.png", "Is no picture and no PDF.", "Give a PNG."),
        ("wordless.png", "A part of the answer could not be understood.", "Try again"),
        ("broken.png", "A part of the answer could not be understood.", "Try again"),
        ("cut.png", "The connection broke off before the answer was complete.", "What had arrived is shown."),
    ],
)
def test_errors_tell_the_problem_and_the_remedy(
    page: "Page", stub: Server, file: str, problem: str, remedy: str
) -> None:
    stub.go_on.set()
    read(page, stub.url, picture(file))
    page.locator(".page", has_text="not read").dispatch_event("click")
    error = page.locator(".error")
    expect(error).to_contain_text(file)
    expect(error.locator(".problem")).to_have_text(problem)
    expect(error.locator(".remedy")).to_contain_text(remedy)
    expect(page.get_by_role("status")).to_contain_text(problem.rstrip(".")[1:])
    expect(error.get_by_role("button", name="Try again")).to_be_visible()


def test_what_arrived_before_a_break_stays(page: "Page", stub: Server) -> None:
    read(page, stub.url, pdf("cut.pdf"))
    expect(page.locator(".row")).to_have_count(10)
    stub.go_on.set()
    expect(page.locator(".page")).to_have_count(2)
    expect(page.locator(".row")).to_have_count(10)
    expect(page.locator(".page").nth(1)).to_contain_text("not read")


def test_the_request_id_is_told(page: "Page", stub: Server) -> None:
    read(page, stub.url, picture("large.png"))
    expect(page.locator(".error .request")).to_have_text("Request 7b1e")


def test_a_service_that_is_gone_is_told_and_tried_again(page: "Page", stub: Server) -> None:
    page.goto(stub.url)
    page.context.set_offline(True)
    page.set_input_files("#files", [picture("bill.png")])
    expect(page.locator(".error .problem")).to_have_text("The service could not be reached.")
    page.context.set_offline(False)
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".row")).to_have_count(10)
    expect(page.locator(".error")).to_have_count(0)


def test_a_busy_service_is_asked_again_after_the_time_it_names(page: "Page", stub: Server) -> None:
    stub.busy = 1
    read(page, stub.url, picture("busy.png"))
    expect(page.locator("#notes")).to_have_text("The service is busy. Trying again in 2 s.")
    expect(page.get_by_role("status")).to_contain_text("The service is busy.")
    expect(page.locator(".row")).to_have_count(10)
    assert len(stub.uploads) == 2


def test_what_is_read_and_what_waits_can_be_stopped(page: "Page", stub: Server) -> None:
    read(page, stub.url, picture("slow.png"), picture("bill.png"))
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#work")).to_be_hidden()
    expect(page.locator(".page", has_text="stopped")).to_have_count(2)
    expect(page.locator("#notes")).to_contain_text("Stopped before it was read.")
    page.locator(".page").nth(1).click()
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".row")).to_have_count(10)


def test_a_key_is_asked_for_kept_in_memory_and_sent(page: "Page", stub: Server) -> None:
    stub.asks_key = True
    read(page, stub.url, picture("bill.png"))
    key = page.get_by_label("API key")
    expect(key).to_be_focused()
    key.fill("a wrong one")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="The server refused this key")).to_be_visible()
    key.fill(KEY)
    page.get_by_role("button", name="Use this key").click()
    expect(page.locator(".row")).to_have_count(10)
    expect(page.get_by_role("contentinfo")).to_contain_text("ppocrv4-mobile-rec")
    expect(key).to_be_hidden()
    stored = page.evaluate("[localStorage.length, sessionStorage.length, document.cookie, location.href]")
    assert stored == [0, 0, "", stub.url]
    page.reload()
    expect(page.get_by_role("heading", name="This server asks for a key")).to_be_visible()


def test_warnings_and_left_out_lines_are_told(page: "Page", stub: Server) -> None:
    read(page, stub.url, picture("warned.png"))
    expect(page.locator(".note.warning")).to_have_text(
        ["The page was shrunk to 0.4 of its size.", "3 uncertain lines left out by the score filter."]
    )


def test_text_is_never_markup(page: "Page", stub: Server) -> None:
    read(page, stub.url, picture("<img src=x onerror=alert(1)>.png"))
    expect(page.locator(".row-text").nth(8)).to_have_text("<b>Service & VAT</b> included")
    expect(page.locator("#picture-title")).to_have_text("<img src=x onerror=alert(1)>.png")
    assert page.locator(".row b, h2 img").count() == 0


# --- for every eye, ear and hand

CONTRASTS = """() => {
  const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour;
      if (colour[3] !== 0) throw new Error("half-transparent ground: " + at.className);
    }
    throw new Error("no ground");
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const words = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!words || !element.checkVisibility({ visibilityProperty: true, opacityProperty: true })) continue;
    if (element.closest("noscript, .off-screen, .skip")) continue;
    const pair = [light(parse(getComputedStyle(element).color)), light(ground(element))];
    const name = `${element.tagName}.${element.className} ${element.textContent.trim()}`;
    found.push([name, (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05)]);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(page: "Page", stub: Server, scheme: Any) -> None:
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    page.goto(stub.url)
    assert [pair for pair in page.evaluate(CONTRASTS) if pair[1] < 4.5] == []
    stub.asks_key = True
    page.set_input_files(
        "#files", [picture(name) for name in ("warned.png", "large.png", "slow.png", "x.png")]
    )
    page.get_by_label("API key").fill(KEY)
    expect(page.get_by_label("API key")).to_be_visible()
    found = page.evaluate(CONTRASTS)
    page.keyboard.press("Enter")
    expect(page.locator(".page")).to_have_count(4)
    expect(page.locator(".page").nth(2)).to_contain_text("reading")
    for entry in range(4):
        page.locator(".page").nth(entry).click()
        if page.locator(".row").count():
            page.locator(".row").nth(6).hover()
            page.locator(".row").nth(4).focus()
        found += page.evaluate(CONTRASTS)
    assert len(found) > 100
    assert [pair for pair in found if pair[1] < 4.5] == []


def test_dark_follows_the_system_and_the_button(page: "Page", stub: Server) -> None:
    grounds = {"light": "rgb(246, 245, 242)", "dark": "rgb(21, 24, 26)"}
    page.emulate_media(color_scheme="dark")
    page.goto(stub.url)
    root = page.locator("html")
    expect(root).to_have_css("background-color", grounds["dark"])
    page.get_by_role("button", name="Switch between light and dark").click()
    expect(root).to_have_css("background-color", grounds["light"])
    page.get_by_role("button", name="Switch between light and dark").click()
    expect(root).to_have_css("background-color", grounds["dark"])


def test_certainty_shows_without_colour(page: "Page", stub: Server) -> None:
    read(page, stub.url, picture("bill.png"))
    rows = page.locator(".row")
    expect(rows.nth(1).locator(".row-score")).to_have_text("98 %")
    expect(rows.nth(4).locator(".row-score")).to_have_text("check87 %")
    expect(rows.nth(6).locator(".row-score")).to_have_text("doubtful64 %")
    dashes = [
        page.locator(".box").nth(at).evaluate("box => getComputedStyle(box).strokeDasharray")
        for at in (1, 4, 6)
    ]
    assert len(set(dashes)) == 3
    expect(page.locator(".box").nth(6)).to_have_attribute("aria-label", re.compile(r"pudd1ng.*64 % doubtful"))


UNNAMED = """() => {
  const wanted = "button, input, [role=button], nav, section, progress, svg[role], [tabindex='0']";
  const labelled = (element) => document.getElementById(element.getAttribute("aria-labelledby"))?.textContent;
  const named = (element) => element.getAttribute("aria-label") || element.textContent.trim()
    || element.labels?.length || labelled(element);
  return [...document.querySelectorAll(wanted)]
    .filter((element) => element.checkVisibility() && !named(element)).map((element) => element.outerHTML);
}"""
DOUBLED_IDS = """() => {
  const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
  return ids.filter((id, at) => ids.indexOf(id) !== at);
}"""
FOCUS_SHOWS = """() => {
  const style = getComputedStyle(document.activeElement);
  const outlined = parseFloat(style.outlineWidth) >= 2 && style.outlineStyle !== "none";
  return document.activeElement === document.body || outlined || parseFloat(style.strokeWidth) >= 4;
}"""


def test_everything_has_a_name_and_a_place(page: "Page", stub: Server) -> None:
    read(page, stub.url, picture("bill.png"), picture("slow.png"))
    expect(page.locator(".row")).to_have_count(10)
    assert page.evaluate(UNNAMED) == []
    for role in ("banner", "main", "contentinfo"):
        expect(page.get_by_role(role)).to_have_count(1)
    expect(page.get_by_role("navigation", name="Pages")).to_be_visible()
    expect(page.get_by_role("region", name="Text", exact=True)).to_be_visible()
    expect(page.get_by_role("progressbar", name="Files read")).to_be_visible()
    assert page.evaluate("document.documentElement.lang") == "en"
    assert page.locator("h1").count() == 1
    assert page.evaluate(DOUBLED_IDS) == []


def test_focus_is_visible_and_the_first_stop_skips_to_the_content(page: "Page", stub: Server) -> None:
    read(page, stub.url, picture("bill.png"))
    expect(page.locator(".row")).to_have_count(10)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    expect(page.get_by_role("link", name="Skip to the content")).to_be_in_viewport()
    for _ in range(14):
        page.keyboard.press("Tab")
        assert page.evaluate(FOCUS_SHOWS), page.evaluate("document.activeElement.outerHTML")


@pytest.mark.parametrize("width", [320, 360, 390, 719, 720, 1119, 1440])
def test_nothing_is_cut_off_at_any_width(page: "Page", stub: Server, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    stub.go_on.set()
    read(
        page,
        stub.url,
        picture("warned.png"),
        picture("large.png"),
        pdf("three-with-quite-a-long-name-of-a-file.pdf"),
    )
    expect(page.locator("#work")).to_be_hidden()
    expect(page.locator(".page")).to_have_count(5)
    for entry in range(2):
        page.locator(".page").nth(entry).click()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        outside = """() => [...document.querySelectorAll("main button, header button, .row, .error")]
          .filter((e) => e.checkVisibility() && !e.closest(".page-list, .stage"))
          .filter((e) => e.getBoundingClientRect().right > innerWidth).map((e) => e.outerHTML)"""
        assert page.evaluate(outside) == []
