"""Reports: tables, templates and pages, and what names of others may do in them."""

from __future__ import annotations

import base64
import re
from importlib import resources
from pathlib import Path

import pytest
from jinja2 import UndefinedError
from markupsafe import Markup

from guidxmage.reports.markdown import code, html_table, rendered, table
from guidxmage.reports.page import write_report

EVIL = "<script>x</script> [a](http://b) ![c](d.png)\n\n# | head"


def test_a_table_by_hand() -> None:
    text = table(["method", "share, %", "why"], [["a|b", 1.5, "`x`"], ["c", "–", ""]], words=(0, 2))
    assert text.splitlines() == [
        "| method | share, % | why |",
        "| --- | ---: | --- |",
        "| a\\|b | 1.5 | `x` |",
        "| c | – |  |",
    ]
    assert not table(["method"], [])
    assert html_table(["<a>"], [["b & c"]]) == (
        "<table><thead><tr><th>&lt;a&gt;</th></tr></thead>"
        "<tbody><tr><td>b &amp; c</td></tr></tbody></table>"
    )


def test_code_ends_where_it_should() -> None:
    assert code("a `b`\n c") == "`a 'b' c`"


@pytest.fixture
def page(tmp_path: Path) -> str:
    """A page of a template that is filled with what nobody should be called."""
    part = {"part": {"title": EVIL, "name": "part"}, "photos": 3, "seen": "once"}
    part["paper"] = table([EVIL, EVIL], [[EVIL, EVIL]])
    values = {"parts": [part], "missing": [(EVIL, EVIL)]}
    text = rendered("guidxmage.evaluation.report", "table1.md", **values)
    write_report(tmp_path, text)
    assert (tmp_path / "REPORT.md").read_text() == text
    return (tmp_path / "report.html").read_text()


def test_names_add_neither_html_nor_links_nor_pictures(page: str) -> None:
    assert "<script" not in page
    assert "<img" not in page
    assert re.findall(r'href="([^"]*)"', page) == ["part/report.html"]
    assert page.count("<h1>") == 1
    assert page.count("<tr>") == 2
    assert page.count("<td") == 2
    assert "&lt;script&gt;x&lt;/script&gt; [a](http://b) ![c](d.png)  # | head</h2>" in page


def test_links_lead_from_page_to_page(tmp_path: Path) -> None:
    write_report(tmp_path, "# A & <b>\n\nSee [part/REPORT.md](part/REPORT.md) and `a[0]`.\n")
    page = (tmp_path / "report.html").read_text()
    assert "<title>A &amp; &lt;b&gt;</title>" in page
    assert '<p>See <a href="part/report.html">part/report.html</a> and <code>a[0]</code>.' in page
    assert "[part/REPORT.md](part/REPORT.md)" in (tmp_path / "REPORT.md").read_text()


def test_pictures_are_in_the_page(tmp_path: Path) -> None:
    (tmp_path / "a b.png").write_bytes(b"pixels")
    write_report(tmp_path, "# A\n\n![curves](<a b.png>)\n")
    coded = base64.b64encode(b"pixels").decode()
    assert (
        f'<img src="data:image/png;base64,{coded}" alt="curves"'
        in (tmp_path / "report.html").read_text()
    )


def test_a_value_that_is_missing_is_not_passed_over() -> None:
    with pytest.raises(UndefinedError):
        rendered("guidxmage.hardening.report", "hardening.md", title="x")


def test_templates_come_with_the_package() -> None:
    for package, name in (
        ("guidxmage.reports", "report.html"),
        ("guidxmage.evaluation.report", "evaluation.md"),
        ("guidxmage.hardening.report", "card.md"),
        ("guidxmage.hardening.data", "garments.md"),
    ):
        assert resources.files(package).joinpath("templates", name).is_file()


def test_what_was_rendered_is_taken_as_it_is() -> None:
    assert table([Markup("<b>"), "<b>"], [["", ""]]).splitlines()[0] == "| <b> | \\<b> |"
