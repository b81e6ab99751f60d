"""The pages in a real Chromium: no requests, no errors, no overflow on a phone, contrast in both schemes."""

import os
import shutil

import pytest

from fionalm.report import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
playwright_api = pytest.importorskip("playwright.sync_api")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]

QUIET = [
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]

# Contrast of every piece of visible text with the nearest background that is not transparent (WCAG 2, 1.4.3).
LOW_CONTRAST = """() => {
  const rgb = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(c => c / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = node => {
    for (; node; node = node.parentElement) {
      const color = rgb(getComputedStyle(node).backgroundColor);
      if (color.length === 3 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  const bad = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let seen = 0;
  while (walker.nextNode()) {
    const parent = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !parent.getClientRects().length) continue;
    const style = getComputedStyle(parent);
    const drawn = parent.namespaceURI.endsWith('svg');
    const ink = light(rgb(drawn ? style.fill : style.color)), ground = light(behind(parent));
    const ratio = (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
    seen += 1;
    if (ratio < 4.5) bad.push(`${walker.currentNode.textContent.trim().slice(0, 40)} ${ratio.toFixed(2)}`);
  }
  return seen > 20 ? bad : ['hardly any text was seen'];
}"""


@pytest.fixture(scope="module")
def browser():
    arguments = QUIET + (["--no-sandbox"] if os.geteuid() == 0 else [])
    with playwright_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """Open a file and return its page; at the end nothing else was asked for and no error was shown."""
    pages = []

    def open_page(path, *, width=1200, scheme="light", **options):
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme, **options)
        asked, complaints = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(path.as_uri())
        page.wait_for_load_state("networkidle")
        pages.append((page, path, asked, complaints))
        return page

    yield open_page
    for page, path, asked, complaints in pages:
        page.close()
        assert asked == [path.as_uri()]
        assert complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_report_on_a_phone_does_not_overflow_and_can_be_read(visit, run_folder, scheme):
    page = visit(write_report(run_folder), width=360, scheme=scheme)
    page.eval_on_selector_all("details", "all => all.forEach(one => one.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate(LOW_CONTRAST) == []
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(18, 22, 28)")
    smallest = page.eval_on_selector_all(
        "figure svg text",
        "all => Math.min(...all.map(t => parseFloat(getComputedStyle(t).fontSize) * t.getScreenCTM().a))",
    )
    assert smallest >= 8


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_report_on_a_desk(visit, run_folder, scheme):
    page = visit(write_report(run_folder), scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 1200
    assert page.evaluate(LOW_CONTRAST) == []
    assert page.locator("svg.interval[role=img]").count() == 5
    boxes = [page.locator("figure svg").nth(index).bounding_box() for index in range(5)]
    assert all(box["width"] > 300 and box["height"] > 120 for box in boxes)


def test_what_a_screen_reader_is_told(visit, run_folder):
    page = visit(write_report(run_folder), width=360)  # where the claims are laid out as cards
    assert page.get_by_role("table", name="Claims of the paper").get_by_role("row").count() == 6
    assert page.get_by_role("columnheader").count() >= 4
    assert page.get_by_role("img", name="measured 10, [3.3, 30]; supported if above 2 times").count() == 1
    assert page.get_by_role("img", name="Which size diverges. Fitted on").count() == 1


def test_a_report_is_usable_from_the_keyboard(visit, run_folder):
    page = visit(write_report(run_folder))
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.tagName") == "SUMMARY":
            break
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.parentElement.open") is True


def test_an_index_leads_to_its_studies_and_back(browser, visit, studies_folder):
    path = write_report(studies_folder)
    phone = visit(path, width=360, scheme="dark")
    assert phone.evaluate("document.documentElement.scrollWidth") <= 360
    assert phone.evaluate(LOW_CONTRAST) == []
    page = browser.new_page()
    page.goto(path.as_uri())
    page.get_by_role("link", name="Scaling exponents").click()
    assert page.url == (studies_folder / "scaling exponents" / "report.html").as_uri()
    page.get_by_role("link", name="All studies").click()
    assert page.url == path.as_uri()
    page.close()


def test_the_numbers_of_a_figure_can_be_saved(browser, run_folder):
    page = browser.new_page()
    page.goto(write_report(run_folder).as_uri())
    page.eval_on_selector_all("details", "all => all.forEach(one => one.open = true)")
    with page.expect_download() as download:
        page.get_by_text("Save as best-lr.csv").click()
    assert download.value.suggested_filename == "best-lr.csv"
    assert download.value.path().read_text() == (run_folder / "figures" / "best-lr.csv").read_text()
    page.close()


def test_the_policy_holds_should_escaping_ever_fail(browser, run_folder, tmp_path):
    broken = tmp_path / "broken.html"
    attack = "<script>window.ran = 1</script><img src=http://127.0.0.1:9/x onerror='window.ran = 1'>"
    broken.write_text(write_report(run_folder).read_text().replace("<h1>", attack + "<h1>"))
    page = browser.new_page()
    blocked, complaints = [], []
    page.on("requestfailed", lambda request: blocked.append(request.failure))
    page.on("console", lambda message: complaints.append(message.text))
    page.goto(broken.as_uri())
    page.wait_for_load_state("networkidle")
    assert page.evaluate("window.ran") is None
    assert len(complaints) >= 2 and all("Content Security Policy" in text for text in complaints)
    assert all(reason == "csp" for reason in blocked)
    page.close()
