"""The page in a browser: it says what it was given, runs nothing but its own script, asks nobody, fits any screen."""

from __future__ import annotations

import base64
import json
import os
import re
import select
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.figures.style import hover, panels, save, styled
from analysis.page.blocks import cells, shown
from analysis.page.html import Fold, Line, Listing, Note, Numbers, Picture, Section, Words, html, markdown
from analysis.page.latex import escaped as in_latex
from analysis.page.latex import latex
from analysis.page.markdown import escaped as in_markdown
from analysis.report import write

EVIL = (
    """</td></title></script><script>pwned = 1</script><img src=x onerror=pwned=1>"'`|${x} _a_ *b* [c](javascript:d)"""
)
HOSTILE = [EVIL, "x" * 300, "naïve 任务 🙂", "a\nb", "</details></svg>", "&lt;b&gt;", "{{ 7 * 7 }}"]
WIDTHS = (320, 360, 768, 1280)


def exponents(n: int = 30) -> pd.DataFrame:
    """Values that sort one way as numbers and another as text; the last two rows are missing and without interval."""
    value = np.array([(-1) ** i * 1.5**i / 7 for i in range(n)])
    value[-2] = np.nan
    low, high = value - 1, value + 1
    low[-1] = high[-1] = np.nan
    tasks = [*HOSTILE, *(f"task_{i}" for i in range(n - len(HOSTILE)))]
    runs = [" ".join(["0123456789ab"] * 20)] * n
    return pd.DataFrame(
        {"task": tasks, "exponent": value, "exponent_low": low, "exponent_high": high, "ok": True, "runs": runs}
    )


def picture(folder: Path, name: str, points: list[str]) -> Picture:
    with styled():
        figure, grid = panels(1, 3)
        for axes in grid[0]:
            axes.plot(range(len(points)), range(len(points)), "o")
            hover(axes, range(len(points)), range(len(points)), points)
    _, svg = save(figure, folder / "figures", name)
    return Picture(name=svg.stem, caption=f"Figure {name}", path=svg)


def sections(folder: Path) -> list[Section]:
    (folder / "figures").mkdir()
    short = [
        Words(lines=["Brackets hold 95 % intervals.", EVIL]),
        Words(lines=["plain", Line(text=EVIL, see=("law", "not there"), runs=("r1", "<r2>"))], bullets=True),
        Note(text=EVIL, severity="serious"),
        Note(text="x" * 300, severity="info"),
    ]
    law = Numbers(name="law", caption=EVIL, rows=exponents(), most=20, meanings={"exponent": f"b {EVIL}"})
    few = Numbers(name="few", caption="A few", rows=exponents().head(3))
    long = Numbers(name="long", caption="Many", rows=pd.DataFrame({"i": range(1500)}))
    empty = Numbers(name="empty", caption="None", rows=pd.DataFrame({"a": [], "b": []}))
    return [
        Section(title="In short", blocks=short),
        Section(title=EVIL, blocks=[law, Listing(text=f"{EVIL}\n```\n{'y' * 400}")]),
        Section(
            title="Figures",
            blocks=[picture(folder, "one", HOSTILE), picture(folder, "law", ["p", "q"]), picture(folder, "three", [])],
        ),
        Section(title="Figures", blocks=[Fold(title=EVIL, blocks=[few, Fold(title="inner", blocks=[long])]), empty]),
    ]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    path = folder / "report.html"
    path.write_text(html(EVIL, EVIL, ["note", Note(text=EVIL)], sections(folder), downloads=("csv", "tex")), "utf-8")
    return path


class Browser:
    """A headless Chromium at the other end of a pipe (the DevTools protocol), with all that its page reports."""

    def __init__(self, program: str, profile: Path) -> None:
        (mine, theirs), (back, answer) = os.pipe(), os.pipe()

        def connect() -> None:
            first, second = os.dup(mine), os.dup(answer)
            os.dup2(first, 3)
            os.dup2(second, 4)

        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe"]
        self.process = subprocess.Popen(
            [program, *flags, f"--user-data-dir={profile}", "about:blank"],
            preexec_fn=connect,
            pass_fds=(3, 4, mine, answer),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(mine)
        os.close(answer)
        self.out, self.back = os.fdopen(theirs, "wb"), os.fdopen(back, "rb")
        self.rest, self.n, self.session = b"", 0, ""
        self.events: list[dict[str, Any]] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        self.n += 1
        message = {"id": self.n, "method": method, "params": params}
        message |= {"sessionId": self.session} if self.session else {}
        self.out.write(json.dumps(message).encode() + b"\0")
        self.out.flush()
        while (answer := self._read()).get("id") != self.n:
            self.events.append(answer)
        assert "error" not in answer, answer
        return dict(answer["result"])

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.back], [], [], 30)
            some = os.read(self.back.fileno(), 1 << 16) if ready else b""
            assert some, "the browser is gone, or silent for 30 s"
            self.rest += some
        first, self.rest = self.rest.split(b"\0", 1)
        return dict(json.loads(first))

    def open(self, page: Path, width: int, *, anchor: str = "") -> None:
        metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
        self.ask("Emulation.setDeviceMetricsOverride", **metrics)
        self.ask("Page.navigate", url="about:blank")  # else another anchor of the same page loads nothing
        self.run("0")
        self.events.clear()
        self.ask("Page.navigate", url=f"{page.as_uri()}{anchor}")
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._read())
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def run(self, script: str) -> Any:
        result = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def key(self, key: str, code: int, text: str = "") -> None:
        for kind in ("keyDown", "keyUp"):
            typed = {"text": text} if text and kind == "keyDown" else {}
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **typed)

    def complaints(self) -> list[dict[str, Any]]:
        """What a console would show in red or yellow."""
        kinds = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
        return [event for event in self.events if event.get("method") in kinds]

    def requests(self) -> list[str]:
        sent = [event for event in self.events if event.get("method") == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in sent]

    def screenshot(self, path: Path) -> None:
        shot = self.ask("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        self.session = ""
        self.ask("Browser.close")
        self.process.wait(20)
        self.out.close()
        self.back.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium on this machine")
    started = Browser(program, tmp_path_factory.mktemp("profile"))
    yield started
    started.close()


OVERFLOWING = """(() => {
  const inside = (e) => e.closest(".scroll, .drawing, pre, svg");
  const wide = [...document.querySelectorAll("body *")].filter((e) => !inside(e) && !e.matches(".skip, #said")
    && e.getBoundingClientRect().right > innerWidth + 1);
  return {page: document.documentElement.scrollWidth - innerWidth, wide: wide.map((e) => e.outerHTML.slice(0, 80))};
})()"""
OVERLAPPING = """(() => {
  const found = [];
  const what = (e) => (e.tagName === "text" ? e.textContent : e.outerHTML.slice(0, 90));
  const check = (kids) => kids.forEach((a, i) => kids.slice(i + 1).forEach((b) => {
    const p = a.getBoundingClientRect(), q = b.getBoundingClientRect();
    const w = Math.min(p.right, q.right) - Math.max(p.left, q.left);
    const h = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
    if (w > 1 && h > 1) found.push([what(a), what(b), w, h]);
  }));
  const parents = ".frame, main, section, ul, ol, figure, .fold[open], .tools, table, tbody, tr";
  for (const parent of document.querySelectorAll(parents))
    check([...parent.children].filter((e) => getComputedStyle(e).position !== "absolute").slice(0, 60));
  for (const svg of document.querySelectorAll("svg")) check([...svg.querySelectorAll("text")]);
  return found;
})()"""
UNFOLD = "document.querySelectorAll('main details').forEach((fold) => { fold.open = true; })"


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_fits_its_screen_and_nothing_overlaps(browser: Browser, page: Path, width: int) -> None:
    browser.open(page, width)
    for _ in range(2):
        overflow = browser.run(OVERFLOWING)
        assert overflow["wide"] == []
        assert overflow["page"] <= 0
        assert browser.run(OVERLAPPING) == []
        browser.run(UNFOLD)


@pytest.mark.slow
def test_a_whole_report_fits_any_screen_asks_nobody_and_runs_nothing_of_others(
    browser: Browser, whole_sweep: pd.DataFrame, all_tasks: pd.DataFrame, tmp_path: Path
) -> None:
    evil = {"skin": EVIL, "organ": "x" * 120}
    rows, tasks = whole_sweep.replace({"task": evil}), all_tasks.replace({"task": evil})
    written = write(rows, tasks, tmp_path / "report", title=EVIL, spec_text=EVIL, synthetic=True)
    for width in WIDTHS:
        browser.open(written, width)
        assert [url for url in browser.requests() if not url.startswith("data:")] == [written.as_uri()]
        for _ in range(2):
            overflow = browser.run(OVERFLOWING)
            assert overflow["wide"] == []
            assert overflow["page"] <= 0
            assert browser.run(OVERLAPPING) == []
            browser.run(UNFOLD)
        assert browser.run("typeof pwned") == "undefined"
        assert browser.complaints() == []
    links = browser.run("[...document.querySelectorAll('a[download]')].map((a) => a.getAttribute('href'))")
    assert len(links) > 20
    assert [link for link in links if not (written.parent / link).exists()] == []


def test_nothing_is_asked_of_anybody_and_the_console_stays_empty(browser: Browser, page: Path) -> None:
    browser.open(page, 1280)
    browser.run("new Promise(done => setTimeout(done, 200))")
    assert browser.complaints() == []
    outside = [url for url in browser.requests() if not url.startswith("data:")]
    assert outside == [page.as_uri()]


def test_words_of_users_are_shown_and_not_run(browser: Browser, page: Path) -> None:
    browser.open(page, 1280)
    assert browser.run("typeof pwned") == "undefined"
    assert browser.run("document.title") == EVIL
    assert browser.run("document.scripts.length") == 1
    cells = browser.run(
        "[...document.querySelectorAll('figure.table td:first-child')]"
        ".map((cell) => (cell.querySelector('details')?.lastChild ?? cell).textContent)"
    )
    assert set(HOSTILE) <= set(cells)
    tips = browser.run("[...document.querySelectorAll('svg .tip title')].map((tip) => tip.textContent)")
    assert set(HOSTILE) <= set(tips)


def test_a_script_that_slips_in_is_not_run(browser: Browser, page: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.html"
    broken.write_text(page.read_text("utf-8").replace("<h1>", "<script>pwned = 1</script><h1 onclick='pwned = 1'>"))
    browser.open(broken, 1280)
    browser.run("document.querySelector('h1').click()")
    assert browser.run("typeof pwned") == "undefined"
    assert len(browser.complaints()) >= 2


COLUMN = "[...document.querySelectorAll('table')[0].tBodies[0].rows].map((row) => row.cells[1].dataset.v ?? '')"


def test_columns_sort_by_their_value_with_what_is_missing_last(browser: Browser, page: Path) -> None:
    browser.open(page, 1280)
    before = browser.run(COLUMN)
    click = "document.querySelectorAll('table')[0].tHead.rows[0].cells[1].querySelector('button').click()"
    state = "document.querySelectorAll('table')[0].tHead.rows[0].cells[1].getAttribute('aria-sort')"
    known = sorted(float(value) for value in before if value)
    assert len(known) == 29
    for direction, expected in (("ascending", known), ("descending", known[::-1])):
        browser.run(click)
        now = browser.run(COLUMN)
        assert browser.run(state) == direction
        assert [float(value) for value in now[:-1]] == expected
        assert now[-1] == ""
    browser.run(click)
    assert browser.run(state) == "none"
    assert browser.run(COLUMN) == before


def test_a_keyboard_sorts_too(browser: Browser, page: Path) -> None:
    browser.open(page, 1280)
    browser.run("document.querySelectorAll('th button')[1].focus()")
    browser.key("Enter", 13, "\r")
    assert browser.run("document.querySelectorAll('th')[1].getAttribute('aria-sort')") == "ascending"
    assert browser.run("document.activeElement.textContent") == "exponent [low, high]"


VISIBLE = "[...document.querySelectorAll('table')[0].tBodies[0].rows].filter((row) => row.offsetHeight > 0).length"


def test_a_long_table_shows_its_first_rows_and_all_on_demand_and_finds_words(browser: Browser, page: Path) -> None:
    browser.open(page, 1280)
    assert browser.run(VISIBLE) == 20
    browser.run("document.querySelector('.tools button').click()")
    assert browser.run(VISIBLE) == 30
    find = "(() => { const find = document.querySelector('.tools input'); find.value = WORDS;"
    find += " find.dispatchEvent(new Event('input')); })()"
    browser.run(find.replace("WORDS", "'TASK_1'"))
    assert browser.run(VISIBLE) == 11  # task_1, task_10 ... task_19
    browser.run(find.replace("WORDS", "'no such words'"))
    assert browser.run(VISIBLE) == 0


def test_ids_are_unique_and_every_address_in_the_page_exists(browser: Browser, page: Path) -> None:
    browser.open(page, 1280)
    ids = browser.run("[...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))
    missing = """[...document.querySelectorAll('a[href^="#"], use')].map((e) => e.getAttribute('href')
      ?? e.getAttribute('xlink:href')).filter((to) => !document.getElementById(decodeURIComponent(to.slice(1))))"""
    assert browser.run(missing) == []


def test_the_contents_stand_beside_the_text_or_fold_above_it(browser: Browser, page: Path) -> None:
    for width, opened in ((360, False), (1280, True)):
        browser.open(page, width)
        assert browser.run("document.getElementById('contents').open") is opened
    browser.run("document.querySelectorAll('nav a')[2].click()")
    assert browser.run("document.querySelector('nav').getBoundingClientRect().top") == 0  # it stays in sight
    assert browser.run("document.querySelectorAll('nav a').length") == 4


def test_an_address_inside_a_fold_opens_it(browser: Browser, page: Path) -> None:
    anchor = re.findall(r'id="(numbers-\d+-long)"', page.read_text("utf-8"))[0]
    browser.open(page, 1280, anchor=f"#{anchor}")
    assert browser.run(f"document.getElementById('{anchor}').offsetHeight") > 0


def test_paper_has_every_fold_open_and_no_buttons(browser: Browser, page: Path) -> None:
    browser.open(page, 1280)
    browser.ask("Emulation.setEmulatedMedia", media="print")
    browser.run("dispatchEvent(new Event('beforeprint'))")
    assert browser.run("document.querySelectorAll('main details:not([open])').length") == 0
    assert (
        browser.run("document.querySelector('nav').offsetHeight + document.querySelector('.tools').offsetHeight") == 0
    )
    browser.run("dispatchEvent(new Event('afterprint'))")
    assert browser.run("document.querySelectorAll('main details:not([open])').length") > 0
    browser.ask("Emulation.setEmulatedMedia", media="")


def test_a_finger_is_told_what_a_point_is(browser: Browser, page: Path) -> None:
    browser.open(page, 360)
    at = browser.run("""(() => { const tip = [...document.querySelectorAll('svg .tip > :not(title)')].at(-1);
      tip.scrollIntoView({block: 'center', inline: 'center'});
      const box = tip.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]; })()""")
    x, y = at
    touch = f"{{bubbles: true, pointerType: 'touch', clientX: {x}, clientY: {y}}}"
    browser.run(f"document.elementFromPoint({x}, {y}).dispatchEvent(new PointerEvent('pointerdown', {touch}))")
    assert browser.run("document.getElementById('said').textContent") == "q"


def test_ids_of_runs_fold_to_their_number(page: Path) -> None:
    assert "<summary>20 runs</summary>0123456789ab 0123456789ab" in page.read_text("utf-8")


def test_without_a_script_every_row_stands_in_the_page(page: Path) -> None:
    text = page.read_text("utf-8")
    assert text.count("0123456789ab 0123456789ab") >= 33
    assert '<tr><td class="n" data-v="999.0">999</td></tr>' in text
    assert 'data-v="1000.0"' not in text  # the CSV has the rest
    assert "The first 60 of 1500 rows; all are in long.csv." in text


def test_tables_and_figures_link_to_their_files(page: Path) -> None:
    links = re.findall(r'href="([^"#]*)" download', page.read_text("utf-8"))
    assert {"law.csv", "law.tex", "figures/one.png", "figures/one.svg", "figures/one.pdf"} <= set(links)
    assert all((page.parent / link).exists() for link in links if link.startswith("figures/"))


def test_a_strange_svg_loses_whatever_could_run_or_load(tmp_path: Path) -> None:
    path = tmp_path / "strange.svg"
    path.write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="72pt" height="36pt" '
        'onload="a()"><script>a()</script><style>*{}</style><foreignObject/><a xlink:href="javascript:a()"/>'
        '<g class="tip" onclick="a()"><title>t</title></g><image href="https://x.org/i.png"/></svg>'
    )
    section = Section(title="s", blocks=[Picture(name="strange", caption='"c"', path=path)])
    svg = re.findall(r"<svg.*</svg>", html("t", "", [], [section]), re.DOTALL)[0]
    assert not re.search(r"script|style>|foreignObject|javascript|onload|onclick|https://x", svg)
    assert 'width="96" height="48"' in svg


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.123456, "0.123"),
        (1234.5, "1,234"),
        (12, "12"),
        (np.int64(1234567), "1,234,567"),
        (21e6, "21,000,000"),
        (1.234e15, "1.23e15"),
        (1.234e-9, "1.23e-9"),
        (np.float32(0.5), "0.5"),
        (-np.inf, "-∞"),
        (np.nan, ""),
        (None, ""),
        (pd.NA, ""),
        (pd.NaT, ""),
        (True, "yes"),
        (np.False_, "no"),
        ("nan", "nan"),
    ],
)
def test_numbers_are_shown_with_three_digits(value: object, text: str) -> None:
    assert shown(value) == text


def test_an_interval_stands_in_the_cell_of_its_value_and_its_absence_is_said() -> None:
    rows = pd.DataFrame(
        {"b": [0.5, 0.5, np.nan, 0.5], "b_low": [0.25, np.nan, np.nan, -np.inf], "b_high": [0.75, np.nan, 1.0, np.nan]}
    )
    text = markdown("t", "", [], [Section(title="s", blocks=[Numbers(name="n", caption="c", rows=rows)])])
    assert text.splitlines()[-4:] == [
        "| 0.5 [0.25, 0.75] |",
        "| 0.5 [no interval] |",
        "|  |",
        "| 0.5 [-∞, ?] |",
    ]


def test_columns_without_any_value_are_left_out_and_the_others_stay() -> None:
    rows = pd.DataFrame({"a": [1, 2], "nothing": [np.nan, None], "words": ["", ""], "b": [np.nan, 3.0]})
    heads, shown_rows = cells(Numbers(name="n", caption="c", rows=rows))
    assert [head.name for head in heads] == ["a", "b"]
    assert [[cell.text for cell in row] for row in shown_rows] == [["1", ""], ["2", "3"]]
    assert len(cells(Numbers(name="n", caption="c", rows=rows.head(0)))[0]) == 4


def test_words_have_no_interval_whatever_other_columns_are_called() -> None:
    rows = pd.DataFrame({"run": ["r1"], "run_low": [1.0], "run_high": [2.0]})
    heads, _ = cells(Numbers(name="n", caption="c", rows=rows))
    assert [head.name for head in heads] == ["run", "run_low", "run_high"]


def test_markdown_keeps_words_of_users_words() -> None:
    assert in_markdown("a_b 0.5 [0.4, 0.6] -0.3") == "a_b 0.5 [0.4, 0.6] -0.3"
    assert in_markdown("*a* _b_ [c](d) <e> `f` | $g$ &lt;") == r"\*a\* \_b\_ [c\](d) \<e> \`f\` \| \$g\$ \&lt;"
    assert [in_markdown(text) for text in ("# a", "- a", "1. a", "> a", "---")] == [
        *(r"\# a", r"\- a", r"1\. a", r"\> a", r"\---")
    ]
    listing = Section(title="s", blocks=[Listing(text="a\n```\nb")])
    assert "````yaml\na\n```\nb\n````" in markdown("t", "", [], [listing])
    assert "A \\*claim\\* (law; runs r1 r2)" in markdown(
        "t",
        "",
        [],
        [Section(title="s", blocks=[Words(lines=[Line(text="A *claim*", see=("law",), runs=("r1", "r2"))])])],
    )


def test_latex_escapes_words_and_typesets_numbers() -> None:
    assert in_latex(r"a_b & 5 % # $ { } ~ ^ \ ") == (
        r"a\_b \& 5 \% \# \$ \{ \} \textasciitilde{} \textasciicircum{} \textbackslash{}"
    )
    rows = pd.DataFrame({"task_1": ["a&b", "[c]"], "b": [-0.5, 12.0], "b_low": [-1.0, 11], "b_high": [0.25, np.inf]})
    text = latex(Numbers(name="law n", caption="50 %", rows=rows.assign(c=[1.2e15, np.nan], n=[1234567, 2])))
    assert r"\begin{tabular}{lrrr}" in text
    assert r"\caption{50 \%}" in text
    assert r"\label{tab:law-n}" in text
    assert r"task\_1 & b [low, high] & c & n \\" in text
    assert r"a\&b & $-0.5$ [$-1$, $0.25$] & $1.2 \times 10^{15}$ & $1{,}234{,}567$ \\" in text
    assert r"{}[c] & $12$ [$11$, $\infty$] & -- & $2$ \\" in text
