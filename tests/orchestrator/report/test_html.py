from __future__ import annotations

import base64
import itertools
import re
import shutil
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from orchestrator import report
from orchestrator.report import document, html
from orchestrator.report.html import inline
from orchestrator.report.sections import Grid, Section
from orchestrator.store import Store

VOID = {"meta", "link", "img", "br", "hr"}


class Page(HTMLParser):
    """Elements in order, with what they hold; fails at a tag that closes what is not open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert self.open == [], f"left open: {self.open}"

    def handle_starttag(self, tag, attributes):
        assert len({name for name, _ in attributes}) == len(attributes), f"an attribute twice in {tag}"
        self.elements.append((tag, {name: value or "" for name, value in attributes}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open[-1:] == [tag], f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data):
        if self.open and data.strip():
            self.words.setdefault(self.open[-1], []).append(data)

    def of(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def page(hostile) -> Page:
    return Page(hostile.text("report.html"))


def test_the_page_is_well_formed_and_names_its_language(hostile, page):
    assert hostile.text("report.html").startswith("<!DOCTYPE html>")
    assert page.of("html") == [{"lang": "en"}]
    assert len(page.of("h1")) == len(page.of("main")) == len(page.of("title")) == 1


def test_nothing_is_fetched_from_anywhere(hostile, page):
    assert all(item["src"].startswith("data:image/svg+xml;base64,") for item in page.of("img"))
    assert [item["href"] for item in page.of("link")] == ["data:,"]
    assert not any(tag in ("script", "iframe", "object", "embed", "base", "form") for tag, _ in page.elements)
    style = "".join(page.words["style"])
    assert "url(" not in style
    assert "@import" not in style
    links = [item["href"] for item in page.of("a")]
    outside = [link for link in links if link.startswith("http")]
    references = hostile.text("report.html").split('id="references"')[1]
    assert outside
    assert all(f'href="{link}"' in references for link in outside)
    policy = next(item["content"] for item in page.of("meta") if item.get("http-equiv"))
    assert "default-src 'none'" in policy


def test_words_of_a_study_never_become_markup(hostile, page):
    text = hostile.text("report.html")
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "<code>rm</code>" in text
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)


def test_backticks_become_code_and_what_is_in_them_is_escaped():
    assert str(inline("run `a <b>` & go")) == "run <code>a &lt;b&gt;</code> &amp; go"


def test_headings_step_down_one_at_a_time_and_the_verdict_comes_first(page):
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    anchors = [attributes["id"] for tag, attributes in page.elements if tag == "h2" and attributes["id"] != "contents"]
    assert anchors[:2] == ["verdict", "comparison"]
    assert anchors[-3:] == ["failures", "reproduce", "references"]
    assert anchors.index("curves") < anchors.index("outcome") < anchors.index("spectra") < anchors.index("failures")


def test_the_contents_lead_to_every_section_and_no_id_comes_twice(page):
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    inner = [item["href"][1:] for item in page.of("a") if item["href"].startswith("#")]
    assert set(inner) <= set(ids)
    assert {attributes["id"] for tag, attributes in page.elements if tag == "h2"} <= {*inner, "contents"}
    assert all(attributes["aria-labelledby"] in ids for attributes in page.of("section"))


def test_every_picture_has_its_caption_as_text_and_is_a_whole_svg(hostile, page):
    assert [item["alt"] for item in page.of("img")] == list(hostile.summary.figures.values())
    for item in page.of("img"):
        picture = base64.b64decode(item["src"].partition(",")[2])
        root = ET.fromstring(picture)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert b"<text" not in picture, "letters are outlines, alike on every machine"


def test_table_headers_say_what_they_are_for(page):
    assert {item.get("scope") for item in page.of("th")} == {"col", "row"}
    tables = [attributes for attributes in page.of("figure") if attributes.get("class") == "grid"]
    assert len(tables) == len(page.of("table")) >= 3


def test_a_caption_stands_beside_the_box_in_which_its_table_scrolls(hostile):
    text = hostile.text("report.html")
    for box in re.findall(r'<div class="table".*?</div>', text, re.S):
        assert "caption>" not in box
    assert text.count("<figcaption>") >= text.count("<table>")


def test_rows_have_a_cell_for_every_column(hostile):
    for table in re.findall(r"<table>(.*?)</table>", hostile.text("report.html"), re.S):
        rows = re.findall(r"<tr.*?</tr>", table, re.S)
        assert len({len(re.findall(r"<t[hd]", row)) for row in rows}) == 1


def test_verdicts_carry_their_label_their_sentence_and_what_would_decide(hostile, page):
    labels = [item["class"] for item in page.of("li") if "class" in item]
    assert labels == [document.label(item.verdict) for item in hostile.summary.differences]
    text = hostile.text("report.html")
    for item in hostile.summary.differences:
        shown = re.sub(r"<.*?>", "", str(html.verdict(item)))
        assert shown.replace("\u00a0", " ") == re.sub(r"<.*?>", "", str(inline(item.sentence)))
        assert str(html.verdict(item)) in text
        assert str(html.verdict(item)).count('<span class="chip">') == 1
        assert str(inline(item.decide)) in text
    assert document.headline(hostile.summary) in text
    for name in (*labels, "chip"):
        assert f".{name}" in "".join(page.words["style"])


def test_what_did_not_finish_is_told_with_its_log(hostile):
    failures = hostile.text("report.html").split('id="failures"')[1].split("</section>")[0]
    for item in hostile.summary.failures:
        assert item.run_id in failures
        assert item.log in failures
    assert "OOM" in failures


def test_how_to_reproduce_names_command_versions_and_runs(hostile):
    told = hostile.text("report.html").split('id="reproduce"')[1]
    assert "<code>python -m orchestrator sweep x</code>" in told
    assert "Packages:" in told
    assert "Hosts:" in told


def test_sections_of_a_report_are_shown_whatever_they_are_about(hostile, tmp_path):
    grid = Grid(header=["hypothesis", "met"], rows=[["<b>energy</b>", "not met"]], caption="What was expected.")
    section = Section(
        name="expectations", title="Expectations", paragraphs=["As `said`."], grids=[grid], figures=["spectrum"]
    )
    summary = hostile.summary.model_copy(update={"sections": [section]})
    made = document.Document("t", summary, "h", [section], [])
    page = html.render(made, {}, [])
    Page(page)
    assert '<h2 id="expectations">Expectations</h2>' in page
    assert "<p>As <code>said</code>.</p>" in page
    assert "&lt;b&gt;energy&lt;/b&gt;" in page


def test_a_report_whose_page_or_paper_was_deleted_is_made_again(hostile, tmp_path):
    shutil.copytree(hostile.store.root, tmp_path / "store", symlinks=True)
    store = Store(tmp_path / "store")
    made = replace(hostile, store=store, folder=report.report_folder(hostile.plan, store))
    names = ("report.html", "paper/numbers.csv", "paper/methods.tex")
    texts = {name: made.text(name) for name in names}
    for name in names:
        assert report.is_current(made.plan, made.store, made.folder)
        (made.folder / name).rename(tmp_path / "aside")
        assert not report.is_current(made.plan, made.store, made.folder)
        (tmp_path / "aside").rename(made.folder / name)
    (made.folder / "report.html").unlink()
    report.write(made.plan, made.store, made.folder, command="python -m orchestrator sweep x")
    assert {name: made.text(name) for name in names} == texts, "the same records give the same bytes"


def test_report_md_and_the_terminal_name_the_page(hostile):
    assert "[report.html](report.html)" in hostile.text("report.md")
    names = [path.name for path in hostile.folder.iterdir()]
    assert "report.html" in names
    assert "paper" in names
