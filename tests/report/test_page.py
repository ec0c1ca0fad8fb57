import re
from html.parser import HTMLParser

import pytest

from lacuna.report.page import (
    Section,
    build_page,
    copyable,
    facts,
    figure,
    format_number,
    image,
    table,
    warning,
)

ODD = '<b>"R&D"</b>\'s'


class Elements(HTMLParser):
    """All elements of a page, and its text; fails where they do not nest."""

    VOID = frozenset({"meta", "link", "img", "input", "br", "image", "path", "line", "rect"})

    def __init__(self, html):
        super().__init__()
        self.found, self.open, self.text = [], [], ""
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture
def page():
    section = Section("one", ODD, "<section id='one'><h2>One</h2></section>", (("two", ODD),))
    return Elements(build_page(ODD, [section], lead=ODD, versions={"numpy": "9"}))


def test_build_page__is_one_document_with_a_language_one_heading_and_landmarks(page):
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("h1")) == len(page.all("main")) == len(page.all("nav")) == 1
    assert [link["href"] for link in page.all("a")] == ["#content", "#one", "#two"]
    assert "numpy 9" in page.text


def test_build_page__text_is_never_taken_for_html(page):
    assert page.text.count(ODD) == 5  # window, heading, lead, and two of the contents
    assert not page.all("b")


def test_build_page__may_load_nothing_but_itself(page):
    (policy,) = [m["content"] for m in page.all("meta") if "http-equiv" in m]
    assert policy.startswith("default-src 'none';")
    assert "http" not in policy
    assert not [a for _, a in page.found if re.match(r"(https?:)?//", a.get("src", ""))]


def test_elements__text_given_to_them_is_text():
    parts = [
        table(["name", ODD], [[ODD, ODD]], caption=ODD, anchor=ODD),
        facts([(ODD, ODD, ODD)]),
        figure("", ODD),
        image(b"", ODD, width=9),
        warning(ODD),
        copyable("", ODD, ODD),
    ]
    found = Elements("".join(parts))
    assert not found.all("b")
    assert found.text.count(ODD) == 4 + 3 + 1 + 0 + 1 + 1
    assert found.all("img")[0]["alt"] == ODD


def test_table__rows_have_a_heading_and_numbers_are_aligned():
    found = Elements(table(["a", "b"], [["x", 1], ["y", 2]], caption="c"))
    assert [cell.get("scope") for cell in found.all("th")] == ["col", "col", "row", "row"]
    assert [cell.get("class") for cell in found.all("td")] == ["number", "number"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.123456, "0.123"),
        ("12.3456", "12.3"),
        (123456.7, "123457"),
        (1234567, "1\u202f234\u202f567"),
        (0.000012345, "0.0000123"),
        ("n/a", "n/a"),
        (float("nan"), "n/a"),
        ("left", "left"),
        (0, "0"),
        (-2.5, "-2.50"),
    ],
)
def test_format_number__keeps_digits_and_writes_no_exponent(value, expected):
    assert format_number(value) == expected
