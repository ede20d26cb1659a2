"""Lists in pages are followed as RFC 8288 has it, at their own registry, and to an end."""

from __future__ import annotations

import pytest

from udocker.errors import RegistryError
from udocker.registry.pages import next_page, pages
from udocker.registry.transport import Answer

LIST, NEXT = "/v2/org/app/tags/list", "/v2/org/app/tags/list?n=2&last=b"
LINKS = [
    (f'<{NEXT}>; rel="next"', NEXT),
    (f"<{NEXT}>;rel=next", NEXT),
    (f'<{NEXT}> ; title="a, b; rel=prev" ; rel="up Next"', NEXT),
    ('<?n=2&last=b>; rel="next"', NEXT),
    ('<list?n=2&last=b>; rel="next"', NEXT),
    (f'<{LIST}?last=a>; rel="prev", <{NEXT}>; rel="next"', NEXT),
    (f'<{LIST}?x=a,b&last=b>; rel="next"', f"{LIST}?x=a,b&last=b"),
    (f'<https://other.invalid{NEXT}>; rel="next"', NEXT),
    (f'<https://inside.invalid/artifactory/api/docker/hub{NEXT}>; rel="next"', NEXT),
    ("", None),
    (f"{NEXT}; rel=next", None),
    (f'<{NEXT}>; rel="prev"; title="next"', None),
    (f'<{NEXT}>; title="; rel=next"', None),
    (f'<{NEXT}>; rel="prev"; rel="next"', None),
    (f"<{NEXT}>, rel=next", None),
    ('</somewhere?n=2>; rel="next"', None),
    ("<", None),
]


@pytest.mark.parametrize(("header", "expected"), LINKS)
def test_the_next_page_is_the_one_that_the_header_relates(header, expected):
    assert next_page(header, LIST) == expected


@pytest.mark.parametrize("part", ["<", "<a>;", "; a", '<a>; "', '<a>; a="\\', " ", "<a>;a= "])
def test_a_hostile_header_is_read_at_once(part):
    # Some milliseconds; minutes where the time grows with the square of the length.
    assert next_page(part * (65_000 // len(part)), LIST) is None


@pytest.mark.parametrize("following", [{"/a": "/a"}, {"/a": "/b", "/b": "/c", "/c": "/b"}])
def test_pages_that_lead_back_to_themselves_end(following):
    asked = []

    def ask(path):
        asked.append(path)
        return Answer({"Link": f'</v2{following[path[3:-1]]}>; rel="next"'}, b"")

    with pytest.raises(RegistryError, match="the list does not end"):
        list(pages(ask, "/v2/a?", "the list"))
    assert len(asked) == len(following)
