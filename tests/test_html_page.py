"""A page's parts come to their places unaltered, whatever they say, and its data cannot become markup."""

import json
import re

import pytest

from cuchar.html_page import digest, html_page

TEMPLATE = '<meta content="{policy}"><style>{style}</style><script id=data>{data}</script><script>{script}</script>'


def test_every_part_is_in_its_place():
    style, script = "a { b: c } {data}", "const place = `{style} {policy}`"
    data = {"text": "</script><!-- {script} \u2028\u2029 é", "number": 0.5}
    page = html_page(TEMPLATE, style, script, data).decode()
    found = re.fullmatch(TEMPLATE.replace("{", "(?P<").replace("}", ">.*)"), page).groupdict()
    assert (found["style"], found["script"], json.loads(found["data"])) == (style, script, data)
    assert found["data"].isascii() and "<" not in found["data"]
    assert found["policy"] == (
        f"default-src 'none'; script-src {digest(script)}; style-src {digest(style)}; base-uri 'none'; form-action 'none'"
    )
    # printf '' | openssl dgst -sha256 -binary | base64
    assert digest("") == "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"


@pytest.mark.parametrize("template", [TEMPLATE + "{data}", TEMPLATE.replace("{policy}", "")])
def test_a_template_has_each_place_once(template):
    with pytest.raises(ValueError, match="expected the places policy, style, script, data once each"):
        html_page(template, "", "", {})


def test_numbers_that_are_not_json():
    with pytest.raises(ValueError, match="JSON"):
        html_page(TEMPLATE, "", "", {"loss": float("nan")})
