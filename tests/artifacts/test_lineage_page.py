"""The page of a lineage: what it is made of, and in headless Chromium what it does."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from lineage_samples import (
    BROKEN,
    HOSTILE,
    JUDGE,
    RLHF,
    SFT,
    STORE,
    digest,
    hostile,
    lineage_of,
    rlhf_chain,
    sweep,
)

from nemotron.artifacts.lineage import ArtifactNode, Lineage, RunNode
from nemotron.artifacts.views.page import page_html

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

browser_test = pytest.mark.browser


def data_of(html: str) -> Any:
    """What the page carries."""
    found = re.search(r'<script id="lineage" type="application/json">(.*?)</script>', html, re.DOTALL)
    assert found
    return json.loads(found[1])


def test_page_names_nothing_outside_itself() -> None:
    html = page_html(rlhf_chain(), "helpful:v2")
    assert set(re.findall(r"(?:https?|wss?|ftp)://[\w.]+", html)) <= {
        "http://www.w3.org"
    }  # the name of SVG, never fetched
    assert not re.search(r"<(link|img|iframe|object|embed|base|form)\b|@import|url\((?!#)|\ssrc=", html)
    assert "{{" not in html


def test_policy_allows_this_style_and_this_script_and_nothing_else() -> None:
    html = page_html(rlhf_chain(), "helpful:v2")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy
    for tag in ("style", "script"):
        text = re.search(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        assert text
        hashed = base64.b64encode(hashlib.sha256(text[1].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{hashed}';" in policy[1]
    assert policy[1].startswith("default-src 'none';")
    assert "unsafe" not in policy[1]


def test_hostile_text_stays_inside_its_block() -> None:
    html = page_html(hostile(), HOSTILE[0])
    assert html.count("<script") == html.count("</script>") == 2
    assert "<img" not in html
    block = html[html.index('type="application/json">') + 24 :].partition("</script>")[0]
    assert not set(block) & set("<>&\u2028\u2029") and block.isascii()
    shown = data_of(html)
    assert shown["title"] == HOSTILE[0]
    assert shown["nodes"][0]["about"]["tainted"] == HOSTILE[0]


def test_numbers_that_json_or_browsers_do_not_know_are_text() -> None:
    node = ArtifactNode("blake3:1", bytes=2**70, facts={"loss": float("nan"), "deep": [[[[[[[[[[1]]]]]]]]]]})
    run = RunNode("r", metrics={"reward": float("-inf"), "kl": 0.25})
    nodes = data_of(page_html(lineage_of(node.id, [node], [run], []), "x"))["nodes"]
    assert nodes[0]["about"]["bytes"] == str(2**70)
    assert nodes[0]["about"]["facts"]["pairs"] == [["loss", "nan"], ["deep", [[[[[[["..."]]]]]]]]]
    assert nodes[1]["about"]["metrics"]["pairs"] == [["reward", "-inf"], ["kl", 0.25]]


@dataclass
class Opened:
    """A page in the browser, with all that it complained of and asked for."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    @property
    def selected(self) -> Locator:
        return self.page.locator('.node[aria-selected="true"]')

    @property
    def selected_title(self) -> str:
        """What the panel is about; the graph and the panel agree on it."""
        title = self.page.locator("#panel h2").inner_text()
        assert f", {title}" in str(self.selected.get_attribute("aria-label"))
        return title

    @property
    def panel(self) -> str:
        return self.page.locator("#panel").inner_text()

    def find(self, text: str) -> str:
        """Search and jump; the title of what was jumped to."""
        self.page.keyboard.press("/")
        self.page.locator("#query").fill(text)
        self.page.keyboard.press("Enter")
        return self.selected_title

    def node(self, label: str) -> Locator:
        return self.page.locator(f'.node[aria-label*="{label}"]')

    def view(self) -> str:
        return str(self.page.locator("#view").get_attribute("transform"))

    def scale(self) -> float:
        return float(self.view().split("scale(")[1].rstrip(")"))


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Headless Chromium, driven from outside."""
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next((found for name in names if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(names)} is on the PATH")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def show(chromium: Browser, tmp_path: Path) -> Iterator[Callable[..., Opened]]:
    """Opens the page of a lineage from a file; afterwards nothing may have gone wrong in it."""
    contexts = []
    opened: list[Opened] = []

    def call(lineage: Lineage, title: str = "helpful:v2", *, scheme: str = "light") -> Opened:
        file = tmp_path / "lineage.html"
        file.write_text(page_html(lineage, title), encoding="utf-8")
        context = chromium.new_context(
            color_scheme="dark" if scheme == "dark" else "light",
            viewport={"width": 1440, "height": 900},
            reduced_motion="reduce",
            offline=True,
        )
        contexts.append(context)
        each = Opened(context.new_page())
        each.page.on("console", lambda message: each.complaints.append(message.text))
        each.page.on("pageerror", lambda error: each.complaints.append(str(error)))
        each.page.on("dialog", lambda dialog: (each.complaints.append(dialog.message), dialog.dismiss()))
        each.page.on("request", lambda request: each.requests.append(request.url))
        each.page.goto(file.as_uri())
        opened.append(each)
        return each

    yield call
    for each in opened:
        assert each.complaints == []
        assert len(each.requests) == 1, each.requests
    for context in contexts:
        context.close()


Show = Callable[..., Opened]


@browser_test
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_opens_on_the_artifact_in_question(show: Show, scheme: str) -> None:
    opened = show(rlhf_chain(), scheme=scheme)
    assert opened.page.title() == "helpful:v2"
    assert opened.page.locator("#summary").inner_text() == (
        "12 artifacts, 9 runs, 1 tainted, 5 of tainted descent, 1 failed"
    )
    assert opened.page.locator(".node").count() == 21
    assert opened.page.locator(".edge").count() == len(rlhf_chain().edges) + 3  # three in the legend
    assert opened.selected_title == "helpful:v2"
    assert opened.page.locator(".node.focus").get_attribute("aria-selected") == "true"
    ground = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground)[:3])) < 200) == (scheme == "dark")


@browser_test
def test_what_is_wrong_can_be_seen(show: Show) -> None:
    opened = show(rlhf_chain())
    red = opened.page.evaluate(
        """() => {
          const stroke = (query) => getComputedStyle(document.querySelector(query)).stroke;
          const wrong = ['.tainted', '.suspect', '.failed'].map((name) => `.node${name} .card`);
          const fine = ['.node.data:not(.tainted) .card', '.node.succeeded .card'];
          return [...wrong, '#edges .edge.tainted', ...fine].map(stroke);
        }"""
    )
    assert len(set(red[:4])) == 1 and red[0] not in red[4:]
    assert opened.page.locator(".node.tainted").count() == 1
    assert opened.page.locator(".node.suspect").count() == 5
    assert opened.page.locator(".node.failed").count() == 1
    assert "Descends from a tainted artifact\na third of the rejected answers" in opened.panel
    opened.page.locator("#panel button", has_text="preferences.jsonl").click()
    assert opened.selected_title == "preferences.jsonl"
    assert "Tainted\na third of the rejected answers" in opened.panel


@browser_test
def test_click_shows_all_that_is_known_of_an_artifact(show: Show) -> None:
    opened = show(rlhf_chain("sft"), "tiny-sft:v1")
    opened.node("artifact, tiny-sft:v1").click()
    panel = opened.panel
    for words in (
        digest("sft"),
        f"{STORE}/{SFT}/checkpoints/step_500/policy",
        "checkpoint_hf",
        "2.9 MiB (2,998,272 bytes)",
        "2026-11-21 11:20 UTC",
        "tiny-sft:v1, tiny-sft:prod",
        "special_tokens.eos_token",
        "<|im_end|>",
        "740,160",
        "Qwen3ForCausalLM",
    ):
        assert words in panel, words
    assert re.search(r"Made by\s+model\s+sft/nemo_rl\s+succeeded, 46 s", panel)
    assert re.search(r"Used by 4", panel)


@browser_test
def test_click_shows_all_that_is_known_of_a_run(show: Show) -> None:
    opened = show(rlhf_chain())
    opened.node("run, rl/nemo_rl/rlhf, failed").click()
    panel = opened.panel
    for words in (
        "failed after 42 s",
        BROKEN,
        "mara",
        "dgx-07",
        f"{STORE}/{BROKEN}",
        "train/kl",
        "88.1",
        "nan",
    ):
        assert words in panel, words
    assert "2026-11-21 11:20 UTC" in panel and "It left no artifact on record." in panel
    opened.page.locator("#panel button", has_text="tiny-sft:v1").click()
    assert opened.selected_title == "tiny-sft:v1"


@browser_test
def test_selection_shows_where_it_came_from_and_what_it_led_to(show: Show) -> None:
    opened = show(rlhf_chain())
    opened.node("artifact, step_180/policy").click()
    dimmed = {
        str(each.get_attribute("aria-label")).split(", ")[1]
        for each in opened.page.locator(".node.off").all()
    }
    # Siblings are neither before nor after the judge: prompts, the DPO branch and its scores.
    assert dimmed == {
        "prompts.jsonl",
        "prompts_held_out.jsonl",
        "helpful-dpo:v1",
        "rl/nemo_rl/dpo",
        "eval/arithmetic",
        "results.json",
    }
    assert "Artifact, 9 before it, 5 after it" in opened.panel
    assert opened.page.locator("#edges .edge.up").count() == 11
    assert opened.page.locator("#edges .edge.down").count() == 5


@browser_test
def test_copy_button_copies_the_whole_digest(show: Show) -> None:
    opened = show(rlhf_chain())
    opened.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    opened.page.get_by_role("button", name="Copy digest").click()
    opened.page.get_by_text("Copied").wait_for()
    assert opened.page.evaluate("navigator.clipboard.readText()") == digest("policy")


@browser_test
@pytest.mark.parametrize(
    ("typed", "title"),
    [
        (digest("judge")[7:15], "step_180/policy"),
        (digest("judge")[:20].upper(), "step_180/policy"),
        (digest("chat"), "chat.jsonl"),
        ("helpful-dpo", "helpful-dpo:v1"),
        ("tiny-sft:prod", "tiny-sft:v1"),
        ("art://tiny-sft:v1", "tiny-sft:v1"),
        (f"art://tiny-sft@{digest('sft')[7:17]}", "tiny-sft:v1"),
        (f" {STORE}/{SFT}/checkpoints/step_500/policy/ ", "tiny-sft:v1"),
        (f"{STORE}/{SFT}/checkpoints/step_500/policy/model.safetensors", "tiny-sft:v1"),
        ("prompts_held_out", "prompts_held_out.jsonl"),
        (RLHF, "rl/nemo_rl/rlhf"),
        ("rm-nemo", "rm/nemo_rl"),
        (f"run://{JUDGE}/reward_model", "rm/nemo_rl"),
    ],
)
def test_search_finds_whatever_was_pasted(show: Show, typed: str, title: str) -> None:
    opened = show(rlhf_chain())
    assert opened.find(typed) == title
    box = opened.selected.bounding_box()
    stage = opened.page.locator("#graph").bounding_box()
    assert box and stage
    assert stage["x"] <= box["x"] and box["x"] + box["width"] <= stage["x"] + stage["width"]
    assert opened.page.evaluate("document.activeElement.getAttribute('aria-selected')") == "true"


@browser_test
def test_search_offers_choices_and_says_when_there_are_none(show: Show) -> None:
    opened = show(rlhf_chain())
    opened.page.keyboard.press("/")
    opened.page.keyboard.type("eval/a")
    options = opened.page.locator('#results [role="option"]')
    assert options.count() == 2
    assert opened.page.locator("#query").get_attribute("aria-activedescendant") == "result-0"
    assert opened.page.locator("#said").inner_text() == "2 results"
    opened.page.keyboard.press("ArrowDown")
    assert options.nth(1).get_attribute("aria-selected") == "true"
    second = options.nth(1).locator("span").inner_text().split(", ")[1]
    opened.page.keyboard.press("Enter")
    assert second in opened.panel
    opened.page.locator("#query").fill("no such thing")
    assert opened.page.locator("#results").inner_text() == "Nothing here has this id, digest, path or name."
    opened.page.keyboard.press("Enter")
    assert second in opened.panel


@browser_test
def test_keys_follow_the_edges(show: Show) -> None:
    opened = show(rlhf_chain())
    press = opened.page.keyboard.press
    opened.node("artifact, helpful:v2").click()
    press("ArrowLeft")
    assert (opened.selected_title, "succeeded in 41 s" in opened.panel) == ("rl/nemo_rl/rlhf", True)
    press("ArrowUp")
    assert (opened.selected_title, "failed after 42 s" in opened.panel) == ("rl/nemo_rl/rlhf", True)
    press("ArrowDown")
    press("ArrowRight")
    assert opened.selected_title == "helpful:v2"
    press("ArrowRight")
    press("ArrowRight")
    assert opened.selected_title == "results.json"
    press("ArrowRight")
    assert opened.selected_title == "results.json"
    press("Escape")
    assert opened.selected_title == "helpful:v2"
    press("/")
    opened.page.keyboard.type("judge+0")  # letters, not commands, while one types
    assert opened.page.locator("#query").input_value() == "judge+0"
    press("Escape")
    assert opened.page.locator("#query").input_value() == ""
    assert opened.page.locator("#results").is_hidden()
    before = opened.scale()
    press("+")
    assert opened.scale() > before
    press("-")
    press("-")
    assert opened.scale() < before


@browser_test
def test_the_whole_page_can_be_used_from_the_keyboard(show: Show) -> None:
    opened = show(rlhf_chain())
    seen = []
    for _ in range(8):
        opened.page.keyboard.press("Tab")
        seen.append(
            opened.page.evaluate(
                """() => {
                  const at = document.activeElement;
                  const halo = at.querySelector('.halo');
                  const outline = getComputedStyle(at).outlineStyle;
                  const ring = outline !== 'none' || getComputedStyle(halo).stroke !== 'none';
                  return [at.id || at.getAttribute('aria-label') || at.textContent, ring];
                }"""
            )
        )
    assert [name for name, _ in seen[:6]] == [
        "query",
        opened.selected.get_attribute("aria-label"),
        "closer",
        "farther",
        "whole",
        "home",
    ]
    assert all(ring for _, ring in seen)
    assert opened.page.locator('.node[tabindex="0"]').count() == 1
    names = [each.get_attribute("aria-label") for each in opened.page.locator('.node[role="option"]').all()]
    assert all(names) and any("tainted: a third" in str(name) for name in names)


@browser_test
def test_drag_moves_and_wheel_zooms_about_the_pointer(show: Show) -> None:
    opened = show(rlhf_chain())
    node = opened.node("run, rm/nemo_rl")
    box = node.bounding_box()
    assert box
    mouse = opened.page.mouse
    mouse.move(box["x"] + 40, box["y"] + 20)
    mouse.down()
    mouse.move(box["x"] + 140, box["y"] + 70, steps=4)
    mouse.up()
    moved = node.bounding_box()
    assert moved and (round(moved["x"] - box["x"]), round(moved["y"] - box["y"])) == (100, 50)
    assert opened.selected_title == "helpful:v2"  # a drag is no click
    mouse.move(moved["x"], moved["y"])
    before = opened.scale()
    mouse.wheel(0, -300)
    opened.page.wait_for_function("before => seen.scale > before", arg=before)
    zoomed = node.bounding_box()
    assert zoomed and abs(zoomed["x"] - moved["x"]) < 6 and abs(zoomed["y"] - moved["y"]) < 6
    opened.page.locator("#whole").click()
    stage = opened.page.locator("#graph").bounding_box()
    assert stage
    for each in opened.page.locator(".node .card").all():
        inside = each.bounding_box()
        assert inside and inside["x"] >= 0 and inside["x"] + inside["width"] <= stage["width"]
    assert opened.page.locator("#map").is_hidden()


@browser_test
def test_small_map_leads_elsewhere(show: Show) -> None:
    opened = show(sweep(200), "base:v1")
    before = opened.view()
    opened.page.locator("#map").click(position={"x": 20, "y": 100})
    assert opened.view() != before


@browser_test
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_either_scheme(show: Show, scheme: str) -> None:
    opened = show(rlhf_chain(), scheme=scheme)
    pairs = [
        (ink, ground)
        for ink in ("ink", "soft", "faint", "bad", "good", "warn", "busy", "accent")
        for ground in ("surface",)
    ]
    pairs += [("bad-ink", "bad-wash"), ("accent-ink", "accent-wash"), ("soft", "ground"), ("soft", "run")]
    names = sorted({name for pair in pairs for name in pair})
    values = opened.page.evaluate(
        "names => names.map(n => getComputedStyle(document.documentElement).getPropertyValue('--' + n))",
        names,
    )
    colours = dict(zip(names, values, strict=True))

    def light(name: str) -> float:
        parts = [int(colours[name].strip()[n : n + 2], 16) / 255 for n in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for ink, ground in pairs:
        low, high = sorted((light(ink), light(ground)))
        assert (high + 0.05) / (low + 0.05) >= (3 if ink == "accent" else 4.5), (ink, ground)


@browser_test
def test_hostile_names_are_shown_and_never_run(show: Show) -> None:
    opened = show(hostile(), HOSTILE[0])
    page = opened.page
    for number in range(page.locator(".node").count()):
        page.evaluate("n => select(n)", number)
    for bad in HOSTILE[:8]:
        page.locator("#query").fill(bad)
    page.locator("#query").fill("</script>")
    assert page.locator('#results [role="option"]').count() > 0
    assert page.title() == HOSTILE[0]
    assert page.evaluate("document.querySelectorAll('img, iframe, a, object').length") == 0
    assert page.evaluate("document.scripts.length") == 2
    assert page.evaluate("({}).x") is None
    drawn = page.locator("#panel").inner_text() + str(page.locator("#nodes").text_content())
    assert "\u202e" not in drawn and "\x1b" not in drawn
    assert not page.evaluate("document.documentElement.scrollWidth > innerWidth")


@browser_test
def test_policy_stops_what_would_get_in_all_the_same(chromium: Browser, tmp_path: Path) -> None:
    file = tmp_path / "lineage.html"
    file.write_text(page_html(rlhf_chain(), "x"), encoding="utf-8")
    page = chromium.new_page()
    page.goto(file.as_uri())
    reached: list[str] = []
    page.route("https://**", lambda route: (reached.append(route.request.url), route.fulfill(body="")))
    stopped = page.evaluate(
        """async () => {
          const stopped = [];
          addEventListener('securitypolicyviolation', (event) => stopped.push(event.effectiveDirective));
          const image = '<img src="https://example.org/x.png" onerror="window.ran = 1">';
          document.body.insertAdjacentHTML('beforeend', image);
          const script = document.createElement('script');
          script.textContent = 'window.ran = 1';
          document.body.append(script);
          await fetch('https://example.org/').catch(() => 0);
          await new Promise((done) => setTimeout(done, 100));
          return [stopped.sort(), window.ran ?? null];
        }"""
    )
    page.close()
    assert set(stopped[0]) >= {"connect-src", "img-src", "script-src-elem", "script-src-attr"}
    assert stopped[1] is None
    assert reached == []


@browser_test
def test_two_hundred_nodes_are_drawn_at_once(show: Show) -> None:
    opened = show(sweep(200), "base:v1")
    assert opened.page.locator(".node").count() > 190
    spent = opened.page.evaluate(
        """() => {
          const begun = performance.now();
          for (let n = 0; n < 20; n++) select(n);
          document.body.getBoundingClientRect();
          const each = (performance.now() - begun) / 20;
          return [performance.getEntriesByType('navigation')[0].domComplete, each];
        }"""
    )
    assert spent[0] < 5000 and spent[1] < 250


@browser_test
def test_page_says_where_the_depth_limit_cut(show: Show) -> None:
    whole = rlhf_chain("sft")
    opened = show(replace(whole, cut=(digest("base"), digest("scores"))))
    assert opened.page.locator(".node .more").count() == 2
    opened.node("artifact, model,").click()
    assert "There is more before this" in opened.panel and "--depth" in opened.panel
    opened.find(digest("scores"))
    assert "There is more after this" in opened.panel


@browser_test
def test_on_paper_there_is_the_whole_graph_and_no_buttons(show: Show) -> None:
    opened = show(rlhf_chain(), scheme="dark")
    opened.page.emulate_media(media="print")
    opened.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    for query in ("#query", ".controls", "#map", ".copy >> nth=0"):
        assert opened.page.locator(query).is_hidden()
    width = opened.page.evaluate("document.documentElement.clientWidth")
    for each in opened.page.locator(".node .card").all():
        box = each.bounding_box()
        assert box and box["x"] >= 0 and box["x"] + box["width"] <= width
    assert (
        opened.page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        == "rgb(255, 255, 255)"
    )
    opened.page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert opened.page.locator("#graph").get_attribute("viewBox") is None
