"""In a browser, a report is drawn, answers the mouse, can be read in the dark and on paper, and asks no network."""

import re
import shutil
from contextlib import contextmanager

import needs
import pytest
from playwright.sync_api import sync_playwright
from records import make_runs
from test_report import CONFIG, HOSTILE, with_hostile_names

import fempi
from fempi.forensics.report import page

READABLE = 4.5
"""Contrast that WCAG 2 (AA) asks of text"""
BOXES = ".chart"
CONTRASTS = """() => { // between each text in sight and what is behind it, the worst first
  const channels = (colour) => (colour.match(/[\\d.]+/g) || []).map(Number);
  const light = (colour) => {
    const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = channels(colour).map((c) => linear(c / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const opaque = (colour) => colour && colour !== "none" && (channels(colour).length < 4 || channels(colour)[3] > 0);
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const style = getComputedStyle(e);
      if (e.tagName.toLowerCase() === "svg" && !opaque(style.backgroundColor)) continue;
      if (opaque(style.backgroundColor)) return style.backgroundColor;
    }
    return "rgb(255, 255, 255)";
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const text = walker.currentNode.textContent.trim();
    if (!text || element.closest("script, style, noscript") || !element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    const own = element.closest("svg") ? style.fill : style.color;
    const [a, b] = [light(own), light(behind(element))].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), text.slice(0, 40)]);
  }
  return found.sort((x, y) => x[0] - y[0]);
}"""


@pytest.fixture(scope="module")
def browser():
    needs.programs(["chromium"], package="chromium")
    with sync_playwright() as playwright:
        # Chromium's own sandbox refuses root, who runs the tests in a container.
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    config = CONFIG.format(attack="sign_flip", seeds="1")
    return make_runs(tmp_path_factory.mktemp("seen"), config) / "attacked+seed=1.h5"


@pytest.fixture(scope="module")
def report(record, tmp_path_factory):
    target = tmp_path_factory.mktemp("page") / "report.html"
    target.write_text(page([record], truth=True))
    return target


@contextmanager
def opened(browser, report, **look):
    """Open a page with nothing but itself to reach, and hold it to be silent and sufficient."""
    look = {"viewport": {"width": 1280, "height": 900}, **look}
    context = browser.new_context(**look)
    tab = context.new_page()
    asked, said = [], []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))

    def only_the_page(route):
        asked.append(route.request.url)
        route.continue_() if route.request.url == report.as_uri() else route.abort()

    context.route("**/*", only_the_page)
    tab.goto(report.as_uri())
    yield tab
    context.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("data:", "blob:"))] == [report.as_uri()]


def draw_all(tab):
    """Scroll through the page, as charts are drawn when they come into view."""
    for box in tab.locator(BOXES).all():
        box.scroll_into_view_if_needed()
        box.locator(".main-svg").first.wait_for(state="attached")


def cell(tab, client, round_):
    """Where a client's update of a round is in the timeline, in pixels of the page."""
    box = tab.locator("[data-kind=timeline]").first
    box.scroll_into_view_if_needed()
    box.locator(".main-svg").first.wait_for(state="attached")
    return tab.evaluate(
        """([client, round]) => {
          const box = document.querySelector("[data-kind=timeline]");
          const chart = JSON.parse(document.getElementById("data").textContent).runs[0].timeline;
          const { left, top } = box.getBoundingClientRect();
          const { xaxis, yaxis } = box._fullLayout;
          const row = chart.clients.indexOf(client);
          return [left + xaxis._offset + xaxis.l2p(round), top + yaxis._offset + yaxis.l2p(row)];
        }""",
        [client, round_],
    )


def test_every_chart_is_drawn_without_an_error_or_a_request(browser, report):
    with opened(browser, report) as tab:
        draw_all(tab)
        assert tab.locator(BOXES).count() == 7
        assert tab.locator(".chart .main-svg").count() >= 7
        assert tab.locator(".chart .hm image").count() == 1
        buttons = set(tab.locator(".modebar-btn").evaluate_all("all => all.map((e) => e.dataset.title)"))
        assert buttons == {"Download plot as a PNG", "Zoom", "Pan", "Reset axes"}  # none that sends anything anywhere


def test_the_mouse_gets_all_that_is_known_of_an_update(browser, report, record):
    with fempi.open(record) as run:
        clients, trust, norm = (run.read(f"rounds/{name}") for name in ("client", "trust", "norm"))
        weight, selected, rank = (run.read(f"rounds/{name}") for name in ("weight", "selected", "rank"))
        host = run.read("ranks/host")[0, 0].decode()
    with opened(browser, report) as tab:
        for place, slot in ((0, 0), (6, 5)):
            tab.mouse.move(*cell(tab, int(clients[place, slot]), place + 1))
            label = tab.locator("[data-kind=timeline] .hoverlayer .hovertext")
            label.filter(has_text=f"round {place + 1}").wait_for()
            said = label.evaluate("e => [...e.querySelectorAll('.nums tspan.line')].map((line) => line.textContent)")
            assert said[0] == f"client {clients[place, slot]}, round {place + 1}"
            told = dict(line.split(" ", 1) for line in said[1:])
            for name, values in {"trust": trust, "norm": norm, "weight": weight}.items():
                assert float(told[name]) == pytest.approx(values[place, slot], rel=1e-3)
            assert -1 <= float(told["cosine"]) <= 1
            assert told["selected"] == ("yes" if selected[place, slot] else "no")
            assert told["rank"] == f"{rank[place, slot]} on {host}"


def test_the_timeline_and_the_map_can_be_switched(browser, report):
    shown = "() => JSON.stringify(document.querySelector('[data-kind=timeline]').data[0].z)"
    with opened(browser, report) as tab:
        draw_all(tab)
        grids = set()
        for name in ("trust", "norm", "cosine", "weight"):
            tab.locator(f"input[value={name}]").check()
            grids.add(tab.evaluate(shown))
        assert len(grids) == 4
        slider = tab.locator(".slider input")
        for place in (0, 7):
            slider.fill(str(place))
            assert tab.locator(".slider output").text_content() == str(place + 1)


def test_dark_and_light_differ_and_both_can_be_read(browser, report):
    backgrounds = []
    with opened(browser, report, color_scheme="light") as tab:
        draw_all(tab)
        for scheme in ("light", "dark"):
            tab.emulate_media(color_scheme=scheme)
            tab.wait_for_function(
                "() => [...document.querySelectorAll('.chart')].every((e) => e._fullLayout.paper_bgcolor"
                " === getComputedStyle(document.documentElement).getPropertyValue('--surface').trim())"
            )
            backgrounds.append(tab.evaluate("getComputedStyle(document.body).backgroundColor"))
            contrasts = tab.evaluate(CONTRASTS)
            assert len(contrasts) > 150
            assert contrasts[0][0] >= READABLE, contrasts[:5]
    assert backgrounds == ["rgb(255, 255, 255)", "rgb(22, 24, 28)"]


def test_a_narrow_window_scrolls_tables_and_not_the_page(browser, report):
    with opened(browser, report, viewport={"width": 360, "height": 700}) as tab:
        draw_all(tab)
        assert tab.evaluate("document.documentElement.scrollWidth") <= 360
        wide = tab.locator(".scroll").evaluate_all("all => all.filter((e) => e.scrollWidth > e.clientWidth).length")
        assert wide > 0
        widths = tab.locator(BOXES).evaluate_all("all => all.map((e) => e.querySelector('.main-svg').clientWidth)")
        assert max(widths) <= 360


def test_it_prints_every_chart_in_light_colours_whatever_the_screen(browser, report, tmp_path):
    with opened(browser, report, color_scheme="dark") as tab:
        tab.evaluate("""() => addEventListener("beforeprint", () => {
          window.printed = {
            drawn: document.querySelectorAll(".chart > .plot-container").length,
            colours: [...document.querySelectorAll(".chart")].map((e) => e._fullLayout.paper_bgcolor),
            open: document.querySelector("details").open,
          };
        })""")
        pdf = tab.pdf(path=tmp_path / "report.pdf", format="A4", print_background=True)
        printed = tab.evaluate("window.printed")
        assert printed == {"drawn": 7, "colours": ["#ffffff"] * 7, "open": True}
        assert not tab.locator("details").evaluate("e => e.open")
        draw_all(tab)
        assert tab.evaluate("document.querySelector('.chart')._fullLayout.paper_bgcolor") == "#16181c"
    assert pdf.startswith(b"%PDF")
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 12
    assert len(pdf) > 20_000


def test_what_a_record_says_stays_text_in_charts_too(browser, record, tmp_path):
    hostile = with_hostile_names(record, tmp_path / "hostile.h5")
    target = tmp_path / "hostile.html"
    target.write_text(page([hostile, record], truth=False))
    with fempi.open(record) as run:
        client = int(run.read("rounds/client")[0, 0])
    with opened(browser, target) as tab:
        draw_all(tab)
        tab.mouse.move(*cell(tab, client, 1))
        label = tab.locator("[data-kind=timeline] .hoverlayer .hovertext").first
        label.wait_for()
        assert f"on {HOSTILE[:20]}" in label.text_content()
        assert tab.title() == "2 runs - fempi report"
        assert tab.locator("img").count() == 0
        assert tab.locator("main b").count() == 0
        assert tab.locator("h2 >> nth=1").text_content().startswith(HOSTILE)
        ticks = tab.locator("[data-chart=layers]").first.locator(".xtick text").first.text_content()
        assert ticks.startswith(HOSTILE[:20])
