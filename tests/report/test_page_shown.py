"""The report page in a real browser: drawn, readable, quiet on the network, safe."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import page_in_browser as browser
import pytest
from report_run import HOSTILE, hostile, load, looked_into, made

from limbeck.report.figures import DARK, LIGHT


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    if browser.missing():
        pytest.skip(browser.missing())
    with browser.browser() as found:
        yield found


@pytest.fixture(scope="module")
def opened(driver: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Open the page once, and keep what the console and the network said meanwhile."""
    file = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(made(load()), encoding="utf-8")
    browser.show(driver, file)
    return {"driver": driver, "logs": {kind: driver.get_log(kind) for kind in driver.log_types}}


@pytest.fixture
def shown(opened: dict[str, Any]) -> Callable[..., Any]:
    """View the open page at a width and in a scheme, when the plots have followed."""

    def view(**how: Any) -> Any:
        driver = opened["driver"]
        browser.view(driver, **how)
        driver.execute_async_script("setTimeout(arguments[0], 400)")
        return driver

    return view


PLOTS = "return [...document.querySelectorAll('.plot')]"
# The contrast of every visible text of the page, with where it stands.
CONTRASTS = """
const light = (colour) => {
  const [r, g, b] = colour.match(/[\\d.]+/g).map((part) => part / 255)
    .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const paper = light(getComputedStyle(document.body).backgroundColor);
const found = [];
const walk = document.createTreeWalker(document.querySelector('main'), NodeFilter.SHOW_TEXT);
while (walk.nextNode()) {
  const place = walk.currentNode.parentElement;
  if (!walk.currentNode.data.trim() || !place.getClientRects().length) continue;
  const style = getComputedStyle(place);
  const ink = light(place.closest('svg') ? style.fill : style.color);
  const ratio = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
  if (!place.closest('.hm')) found.push([ratio, walk.currentNode.data.trim()]);
}
return found;
"""


def test_all_plots_are_drawn_without_an_error(opened: dict[str, Any]) -> None:
    """A mistake in a figure's data or in the script would leave white places."""
    count = f"{PLOTS}.map((plot) => plot.querySelectorAll('svg').length)"
    drawn = opened["driver"].execute_script(count)
    assert len(drawn) == 11
    assert all(drawn)
    assert opened["logs"]["browser"] == []


def test_nothing_is_asked_of_a_network(opened: dict[str, Any]) -> None:
    """The page would be broken on a train, and tell a stranger who reads it."""
    events = [json.loads(entry["message"])["message"] for entry in opened["logs"]["performance"]]
    sent = [e["params"] for e in events if e["method"] == "Network.requestWillBeSent"]
    asked = [s["request"]["url"] for s in sent if s["documentURL"].endswith("report.html")]
    assert all(url.startswith(("file:///", "data:", "blob:")) for url in asked)
    assert [url.rpartition("/")[2] for url in asked if url.startswith("file")] == ["report.html"]


@pytest.mark.parametrize("width", [320, 375, 1280])
def test_the_page_never_scrolls_sideways(shown: Callable[..., Any], width: int) -> None:
    """On a phone, half of every line would be outside."""
    driver = shown(width=width)
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    wide = driver.execute_script(
        f"{PLOTS}.filter((plot) => plot.querySelector('.main-svg').clientWidth > plot.clientWidth)"
    )
    assert wide == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_has_contrast_as_shown(shown: Callable[..., Any], dark: bool) -> None:
    """A rule in the style sheet could undo the palette; numbers in plots count as text too."""
    found = shown(dark=dark).execute_script(CONTRASTS)
    assert len(found) > 200
    assert [entry for entry in found if entry[0] < 4.5] == []


def test_the_scheme_is_followed_while_the_page_is_open(shown: Callable[..., Any]) -> None:
    """At dusk the page would turn dark, with black plots on it."""
    ask = (
        "return [getComputedStyle(document.body).backgroundColor,"
        " getComputedStyle(document.querySelector('.plot .xtick text')).fill,"
        " getComputedStyle(document.querySelector('.plot path.js-line')).stroke]"
    )
    names = ("paper", "quiet", "teacher")
    assert shown(dark=True).execute_script(ask) == [rgb(DARK[name]) for name in names]
    assert shown(dark=False).execute_script(ask) == [rgb(LIGHT[name]) for name in names]


def rgb(colour: str) -> str:
    return "rgb({}, {}, {})".format(*(int(colour[n : n + 2], 16) for n in (1, 3, 5)))


def test_paper_gets_the_light_page_whole(shown: Callable[..., Any]) -> None:
    """A printed page would be black, cut off at the right, and lack the recipe."""
    driver = shown(dark=True)
    driver.execute_script(
        "window.dispatchEvent(new Event('beforeprint'));"
        "window.seen = [document.querySelector('details').open,"
        " getComputedStyle(document.querySelector('.plot .xtick text')).fill,"
        " document.querySelectorAll('.plot .main-svg:not([viewBox])').length];"
        "window.dispatchEvent(new Event('afterprint'));"
    )
    assert driver.execute_script("return window.seen") == [True, rgb(LIGHT["quiet"]), 0]
    after = (
        "return [document.querySelector('details').open,"
        " getComputedStyle(document.querySelector('.plot .xtick text')).fill]"
    )
    assert driver.execute_script(after) == [False, rgb(DARK["quiet"])]


def test_hostile_labels_are_shown_as_they_stand(driver: Any, tmp_path: Path) -> None:
    """Escaping twice would garble names, and once too little would run them."""
    file = tmp_path / "report.html"
    file.write_text(made(hostile(load())), encoding="utf-8")
    browser.show(driver, file)
    assert driver.execute_script("return window.broken") is None
    assert driver.execute_script("return document.images.length") == 0
    texts = driver.execute_script(
        f"{PLOTS}.flatMap((p) => [...p.querySelectorAll('text')].map((t) => t.textContent))"
    )
    assert {"</script><script…", "<b>bold</b>"} <= set(texts)
    assert "%{y} $x^2$" in texts
    assert [e for e in driver.get_log("browser") if e["level"] == "SEVERE"] == []


VISIBLE = (
    "return [...document.querySelectorAll('#examples [data-in]')]"
    ".filter((row) => row.getClientRects().length).map((row) => row.dataset.in.split('id-')[1])"
)


def test_groups_and_points_choose_examples(driver: Any, tmp_path: Path) -> None:
    """Without it, choosing a class could show all examples, or none, or leave no way back."""
    file = tmp_path / "report.html"
    file.write_text(made(looked_into(load(), HOSTILE)), encoding="utf-8")
    browser.show(driver, file)
    assert driver.execute_script("return window.broken") is None
    assert driver.execute_script(VISIBLE) == ["4", "5"]
    buttons = driver.find_elements("css selector", "#differences button")
    assert [button.get_attribute("data-show") for button in buttons] == [
        "class-0", "class-1", "move-0-1",
    ]  # fmt: skip
    for button, wanted in zip(buttons, (["4", "5"], ["6"], ["4", "5", "6"]), strict=True):
        button.send_keys("\ue007")  # Enter, as those choose who have no mouse
        assert driver.execute_script(VISIBLE) == wanted
        assert button.get_attribute("aria-pressed") == "true"
    status = driver.find_element("css selector", "#examples [role=status]")
    assert status.text.startswith("Only 3 examples: the teacher says one, the student </script>")
    again = status.find_element("css selector", "button")
    driver.execute_script("arguments[0].click()", again)
    assert driver.execute_script(VISIBLE) == ["4", "5"]
    assert not status.is_displayed()
    assert driver.switch_to.active_element == buttons[-1]
    point = "{points: [{customdata: [0, 0, 0, 6]}]}"
    driver.execute_script(
        f"document.querySelectorAll('#maps .plot')[1].emit('plotly_click', {point})"
    )
    assert driver.execute_script(VISIBLE) == ["6"]
    assert [e for e in driver.get_log("browser") if e["level"] == "SEVERE"] == []
