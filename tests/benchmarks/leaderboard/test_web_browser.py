"""The page in a real browser: Debian's headless chromium, without a network."""

import json
import os
import shutil

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from benchmarks.runs.records import read_record
from tests.benchmarks.leaderboard import web_pages

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER),
        reason="no browser: apt-get install chromium chromium-driver",
    ),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Address of a page of toys, opened from the disk."""
    folder = tmp_path_factory.mktemp("browser")
    runs = web_pages.make_runs(folder / "runs")
    web_pages.add_hostile_record(runs)
    return web_pages.make_site(runs, folder / "site").as_uri()


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    arguments = [
        "--headless=new",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--window-size=1280,900",
    ]
    # The sandbox of chromium does not start for root, as whom containers run.
    arguments += ["--no-sandbox"] if os.geteuid() == 0 else []
    for argument in arguments:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser, page):
    """The page, fresh, on a desktop; afterwards nothing was logged and nothing loaded."""
    resize(browser, 1280, 900)
    browser.get("about:blank")
    browser.get_log("browser"), browser.get_log("performance")
    browser.get(page)
    yield browser
    assert browser.get_log("browser") == []
    asked = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = {
        message["params"]["request"]["url"].partition("#")[0]
        for message in asked if message["method"] == "Network.requestWillBeSent"
    }  # fmt: skip
    assert {url for url in urls if not url.startswith("data:")} <= {page}
    assert browser.execute_script("return window.hurt") is None


def resize(browser, width, height):
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def find(browser, css):
    return browser.find_element(By.CSS_SELECTOR, css)


def texts(browser, css):
    # textContent: of what lies outside the view, too.
    script = "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)"
    return browser.execute_script(script, css)


def head(browser, key):
    return find(browser, f'#board-table th[data-key="{key}"]')


def column(browser, key):
    """Numbers of a column of the table from top to bottom, None where there is none."""
    keys = browser.execute_script(
        "return [...document.querySelectorAll('#board-table thead th')].map((e) => e.dataset.key)"
    )
    cells = texts(browser, f"#board-table tbody tr > :nth-child({keys.index(key) + 1})")
    plain = [
        c.replace("\u2212", "-").translate(dict.fromkeys(map(ord, "\u2007\u2008\u2009")))
        for c in cells
    ]
    return [None if c == "–" else float(c) for c in plain]


def press(browser, element):
    browser.execute_script(
        "arguments[0].scrollIntoView({behavior: 'instant', block: 'center'})", element
    )
    element.click()


def choose(browser, label, value):
    """Choose from the list that has this label."""
    for field in browser.find_elements(By.CSS_SELECTOR, "label.field"):
        if field.find_element(By.TAG_NAME, "span").text == label:
            Select(field.find_element(By.TAG_NAME, "select")).select_by_visible_text(value)
            return
    raise AssertionError(f"no list {label}")


def in_order(numbers):
    return numbers == sorted(numbers)


def test_it_opens_and_ranks_by_s2s(opened):
    assert opened.title.startswith("atom-bench leaderboard")
    assert head(opened, "s2s").get_attribute("aria-sort") == "ascending"
    s2s = column(opened, "s2s")
    assert len(s2s) == 7 and in_order(s2s)
    assert texts(opened, "#board-table .row-reference .badge") == ["reference"] * 5


def test_it_opens_with_the_folds_that_compare_most_models(browser, tmp_path):
    """Not with the mean over folds that one trivial predictor alone has run on."""
    runs = web_pages.make_runs(tmp_path / "runs")
    source = next(runs.glob("toy-v1/canonical/fold2/persistence/*/record.json"))
    other = read_record(source.parent).model_copy(update={"fold": 3})
    (tmp_path / "runs" / "other").mkdir()
    (tmp_path / "runs" / "other" / "record.json").write_text(other.model_dump_json())
    address = web_pages.make_site(runs, tmp_path / "site").as_uri()
    resize(browser, 1280, 900)
    browser.get("about:blank")
    browser.get(address)
    assert set(texts(browser, "#board-table .name")) > {"atom", "persistence"}
    assert "fold=" not in browser.current_url
    choose(browser, "Fold", "all, mean")
    assert texts(browser, "#board-table .name") == ["persistence"]
    assert "fold=all" in browser.current_url
    browser.get("about:blank")
    browser.get(f"{address}#task=toy-v1&track=canonical&fold=all")
    assert texts(browser, "#board-table .name") == ["persistence"]


def test_a_hostile_name_is_shown_as_text(opened):
    names = texts(opened, "#board-table .name")
    assert web_pages.HOSTILE in names
    assert opened.find_elements(By.TAG_NAME, "img") == []
    assert web_pages.HOSTILE in texts(opened, "#molecule-table tbody button")


def test_it_sorts_by_click(opened):
    press(opened, head(opened, "s2t").find_element(By.TAG_NAME, "button"))
    assert head(opened, "s2t").get_attribute("aria-sort") == "ascending"
    assert head(opened, "s2s").get_attribute("aria-sort") is None
    assert in_order(column(opened, "s2t"))
    press(opened, head(opened, "skill").find_element(By.TAG_NAME, "button"))
    assert head(opened, "skill").get_attribute("aria-sort") == "descending"
    assert in_order(column(opened, "skill")[::-1])


def test_it_sorts_by_keyboard(opened):
    button = head(opened, "s2s_aligned").find_element(By.TAG_NAME, "button")
    opened.execute_script("arguments[0].focus()", button)
    button.send_keys(Keys.ENTER)
    assert in_order(column(opened, "s2s_aligned"))
    assert opened.switch_to.active_element == button
    button.send_keys(Keys.SPACE)
    assert head(opened, "s2s_aligned").get_attribute("aria-sort") == "descending"
    assert in_order(column(opened, "s2s_aligned")[::-1])
    assert "from large to small" in find(opened, "#live").get_attribute("textContent")
    button.send_keys(Keys.TAB)
    assert opened.switch_to.active_element == head(opened, "skill").find_element(
        By.TAG_NAME, "button"
    )


def test_rows_without_a_number_stand_last_both_ways(opened):
    button = head(opened, "s2s_spread").find_element(By.TAG_NAME, "button")
    for _ in range(2):
        press(opened, button)
        spread = column(opened, "s2s_spread")
        assert spread[0] is not None and set(spread[1:]) == {None}


def test_task_and_part_are_switched(opened):
    before = column(opened, "s2s")
    press(opened, find(opened, '#controls button[data-value="test_ood"]'))
    assert "test_ood" in find(opened, "#board-table caption").text
    assert column(opened, "s2s") != before
    assert "mean-structure" not in texts(opened, "#board-table .name")
    choose(opened, "Task", "toy-short-v1")
    assert "toy-short-v1, canonical, test_ood" in find(opened, "#board-table caption").text
    assert "atom" not in texts(opened, "#board-table .name")
    assert "20 fs" in find(opened, "#task").text
    # The address keeps the choice.
    address = opened.current_url
    opened.get("about:blank")
    opened.get(address)
    assert "toy-short-v1, canonical, test_ood" in find(opened, "#board-table caption").text


def test_curves_are_drawn_and_told_apart_without_colour(opened):
    assert len(opened.find_elements(By.CSS_SELECTOR, "#chart .series")) == 7
    looks = opened.execute_script(
        """return [...document.querySelectorAll('#chart .series')].map((series) => {
          const [line, mark] = [series.querySelector('path'), series.querySelector('.marker')];
          return [line.getAttribute('stroke-dasharray'), mark && mark.nodeName,
                  mark && mark.getAttribute('d')].join();
        })"""
    )
    assert len(set(looks)) == 7
    assert "logarithmic axes" in find(opened, "#chart svg").get_attribute("aria-label")
    # The error of ballistic flight grows: on the screen its line goes up.
    d = find(opened, '#chart .series[data-model="ballistic"] > path').get_attribute("d")
    points = [tuple(map(float, p.split())) for p in d[1:].split("L")]
    assert len(points) == 4 and in_order([x for x, _ in points])
    assert in_order([-y for _, y in points])
    press(opened, find(opened, "#legend button"))
    assert len(opened.find_elements(By.CSS_SELECTOR, "#chart .series")) == 6
    press(opened, find(opened, '#curve-controls button[data-value="skill"]'))
    assert "skill" in " ".join(texts(opened, "#chart .title"))
    assert opened.find_elements(By.CSS_SELECTOR, "#chart .zero")


def test_skill_stands_beside_cost(opened):
    drawn = texts(opened, "#pareto-chart .point title")
    assert any(text.startswith("atom: ") for text in drawn)
    assert opened.find_elements(By.CSS_SELECTOR, "#pareto-chart .front")
    heads = [text.strip() for text in texts(opened, "#pareto-table thead th")]
    assert {"Front, prediction", "Front, training"} <= set(heads)
    press(opened, find(opened, '#pareto-controls button[data-value="training_seconds"]'))
    assert "minutes of training" in " ".join(texts(opened, "#pareto-chart .title"))
    # What does not train stands at no cost, left of what does.
    x = opened.execute_script(
        """const at = (name) => document.querySelector(
          `#pareto-chart [data-model="${name}"] .marker`).getBoundingClientRect().x;
        return [at('persistence'), at('atom')];"""
    )
    assert x[0] < x[1]
    before = texts(opened, "#pareto-note")
    buttons = opened.find_elements(By.CSS_SELECTOR, "#pareto-controls button")
    press(opened, buttons[-1])
    assert texts(opened, "#pareto-note") != before or len(buttons) == 3


def test_a_molecule_has_curves_and_a_row_of_its_own(opened):
    rows = texts(opened, "#molecule-table tbody th")
    assert len(rows) >= 4
    whole = find(opened, '#chart .series[data-model="blend"] > path').get_attribute("d")
    name = next(row for row in rows if row == "ethylene")
    (button,) = [
        b
        for b in opened.find_elements(By.CSS_SELECTOR, "#molecule-table tbody button")
        if b.text == name
    ]
    press(opened, button)
    assert find(opened, '#chart .series[data-model="blend"] > path').get_attribute("d") != whole
    assert name in find(opened, "#chart-note").get_attribute("textContent").lower()
    assert len(texts(opened, "#molecule-table .best")) >= 4


def test_the_trajectory_plays_and_pauses(opened):
    lag = find(opened, "#movie-lag")
    assert "the start" in find(opened, "#movie-caption").text
    before = find(opened, "svg.movie .predicted circle").get_attribute("cx")
    press(opened, find(opened, "#movie-play"))
    WebDriverWait(opened, 20).until(lambda _: lag.get_property("value") == "2")
    assert "error" in find(opened, "#movie-caption").text
    assert find(opened, "svg.movie .predicted circle").get_attribute("cx") != before
    press(opened, find(opened, "#movie-play"))
    assert "Play" in find(opened, "#movie-play").text
    # What was pressed last stays as it is.
    value = lag.get_property("value")
    opened.execute_async_script("setTimeout(arguments[0], 1300)")
    assert lag.get_property("value") == value
    lag.send_keys(Keys.END)
    assert "90 fs" in find(opened, "#movie-caption").text
    find(opened, "svg.movie").send_keys(Keys.ARROW_LEFT)


def test_each_line_links_its_records(opened, page):
    links = opened.find_elements(By.CSS_SELECTOR, "#board-table .links a")
    assert len(links) == 8
    address = links[0].get_attribute("href")
    opened.get(address)
    record = json.loads(find(opened, "body").text)
    assert record["task"] == "toy-v1" and record["rows"]
    opened.get(page)
    opened.get_log("performance")


@pytest.mark.parametrize("width", [375, 320])
def test_a_phone_does_not_scroll_sideways(opened, width):
    resize(opened, width, 800)
    opened.refresh()
    inner, outer = opened.execute_script(
        "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert inner <= outer == width
    table = find(opened, "#board-table .scroll")
    wide, seen = (table.get_property(name) for name in ("scrollWidth", "clientWidth"))
    assert wide > seen > 0
    assert len(opened.find_elements(By.CSS_SELECTOR, "#chart .series")) == 7
    # Wide enough for a finger.
    assert all(
        button.size["height"] >= 36
        for button in opened.find_elements(By.CSS_SELECTOR, "thead button, .segments button")
        if button.is_displayed()
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_in_both_schemes(opened, scheme):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    rgb = opened.execute_script(
        """const of = (css, key) =>
          getComputedStyle(document.querySelector(css))[key].match(/\\d+/g).map(Number);
        return [of('body', 'backgroundColor'), of('body', 'color'), of('.hint', 'color'),
                of('a:not(.skip)', 'color')];"""
    )
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    ground, *inks = [luminance(colour[:3]) for colour in rgb]
    assert (ground > 0.5) == (scheme == "light")
    for ink in inks:
        light, dark = max(ground, ink), min(ground, ink)
        assert (light + 0.05) / (dark + 0.05) >= 4.5


def luminance(rgb):
    """Relative luminance of sRGB, WCAG 2.2."""
    linear = [c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
