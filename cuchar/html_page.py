"""Puts together a page for a browser: one HTML file that has all it needs in it and asks for nothing else.

Its content security policy lets the browser run the script and apply the style that are in the page, which it names by
their digests, and no others, and lets it load nothing at all (https://www.w3.org/TR/CSP3/).
"""

import json
import re
from base64 import b64encode
from hashlib import sha256
from typing import Any

PLACES = re.compile(r"\{(policy|style|script|data)\}")


def html_page(template: str, style: str, script: str, data: Any) -> bytes:
    """The page that has the four parts in their places.

    Args:
        template: HTML in which each of `{policy}`, `{style}`, `{script}` and `{data}` stands once.
        data: JSON values. No character of them can end the element that they stand in, since all but ASCII and every
            `<` come escaped.
    Raises:
        ValueError: a place is missing or there more than once, or a number in the data is not finite.
    """
    policy = [
        "default-src 'none'",
        f"script-src {digest(script)}",
        f"style-src {digest(style)}",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    parts = {"policy": "; ".join(policy), "style": style, "script": script, "data": text.replace("<", "\\u003c")}
    places = PLACES.findall(template)
    if sorted(places) != sorted(parts):
        raise ValueError(f"template: expected the places {', '.join(parts)} once each, found {', '.join(places)}")
    return PLACES.sub(lambda place: parts[place[1]], template).encode()


def digest(source: str) -> str:
    """A source's digest, as a content security policy names it."""
    return f"'sha256-{b64encode(sha256(source.encode()).digest()).decode()}'"
