"""What is handed out presigned, as data: limits, headers, names, curl lines and pages; no store is asked."""

import base64
import json
import re
import shlex
from datetime import datetime, timedelta, timezone
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.check import violations
from agent.grant import dump, parse
from provisioner.errors import BadInput, Expiry
from provisioner.links import pages
from provisioner.links.forms import post_fields
from provisioner.links.headers import disposition, parse_overrides
from provisioner.links.link import local_name
from provisioner.links.signer import make_signer
from provisioner.s3 import cors
from provisioner.s3.signing import Bucket, Credentials, checksum_sha256

NOW = datetime(2026, 11, 23, 12, 0, 0, 250_000, tzinfo=timezone.utc)
BUCKET = Bucket("drop", "eu-central-1", "https://drop.s3.eu-central-1.amazonaws.com/")
KEYS = Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")


def signer(seconds=3600, credentials=KEYS):
    """Return a signer of a fixed moment."""
    return make_signer(BUCKET, credentials, now=NOW, seconds=seconds)


def query(link):
    """Return the query of a link as a dict."""
    return {name: values[0] for name, values in parse_qs(urlsplit(link.url).query).items()}


def test_a_link_states_its_whole_lifetime():
    """The URL's own lifetime is what was asked for, from a whole second."""
    link = signer(90).get("a/b.txt")
    assert query(link)["X-Amz-Expires"] == "90"
    assert link.describe()["expires"] == "2026-11-23T12:01:30Z"


@pytest.mark.parametrize(("seconds", "error"), [(0, BadInput), (7 * 86_400 + 1, BadInput)])
def test_lifetimes_past_the_limits_are_refused(seconds, error):
    """No signature lives less than a second or more than seven days."""
    with pytest.raises(error, match="7 days"):
        signer(seconds)
    assert signer(7 * 86_400)


def test_a_link_can_not_outlive_its_session():
    """Credentials that end sooner than the link are refused, and the hint speaks of --expires."""
    session = Credentials("ASIAEXAMPLE", "s", "token", NOW + timedelta(minutes=30))
    with pytest.raises(Expiry) as caught:
        signer(3600, session)
    assert "`expires`" in caught.value.hint
    assert "run.timeout" not in caught.value.hint
    assert signer(60, session)


def test_overrides_and_names_are_signed():
    """Response headers stand in the signed query; a file name in any script is given twice, as RFC 6266 wants."""
    overrides = parse_overrides(["Cache-Control: no-store", "content-type:text/csv"])
    overrides["content-disposition"] = disposition('Bericht "ä" 100%.csv')
    found = query(signer().get("k", overrides=overrides))
    assert found["response-cache-control"] == "no-store"
    assert found["response-content-type"] == "text/csv"
    assert found["response-content-disposition"] == (
        "attachment; filename=\"Bericht ___ 100_.csv\"; filename*=UTF-8''Bericht%20%22%C3%A4%22%20100%25.csv"
    )


@pytest.mark.parametrize("header", ["X-Amz-Acl: public-read", "content-type", "content-type:", "expires: a\nb"])
def test_other_overrides_are_refused(header):
    """Only what S3 overrides can be overridden, with a value that HTTP carries."""
    with pytest.raises(BadInput):
        parse_overrides([header])


@pytest.mark.parametrize("name", ["", "a/b", "a\\b", "a\r\nSet-Cookie: x", "\udcff"])
def test_a_filename_is_one_name(name):
    """A download's name can't hold a path or a second header."""
    with pytest.raises(BadInput):
        disposition(name)


def test_a_slot_signs_what_was_asked_for():
    """Size, type, digest and no overwriting are signed headers, and are told to whoever uploads."""
    data = b"twelve bytes"
    digest = "45d9e1dba2a4b7a8e0f6b6b7e9f1bd62" * 2
    link = signer().put("in/x.csv", size=12, content_type="text/csv", sha256=digest, overwrite=False)
    assert query(link)["X-Amz-SignedHeaders"] == (
        "content-length;content-type;host;if-none-match;x-amz-checksum-sha256"
    )
    assert link.headers["if-none-match"] == "*"
    assert len(link.headers["x-amz-checksum-sha256"]) == len(checksum_sha256(data))


@pytest.mark.parametrize(
    "wrong", [{"size": -1}, {"size": (5 << 30) + 1}, {"sha256": "abc"}, {"sha256": "é" * 64}, {"content_type": "a\nb"}]
)
def test_slots_that_can_not_be_are_refused(wrong):
    """A size that one PUT can't carry, a digest that is none and a header that breaks out are refused."""
    with pytest.raises(BadInput):
        signer().put("k", **wrong)


def test_no_repr_holds_a_signature():
    """A link, a signer and a target can be printed without giving them away."""
    sign = signer()
    shown = repr([sign.get("k"), sign.put("k"), sign, sign.post("p/", max_bytes=1), sign.grant("p/", max_bytes=1)])
    assert "ignature" not in shown
    assert KEYS.secret_key not in shown


@given(st.text(min_size=1, max_size=40))
def test_a_local_name_stays_in_its_folder(key):
    """Whatever an object is called, curl writes below the current folder, on one line, and takes it for no option."""
    name = local_name(key)
    assert not name.startswith(("/", "-"))
    assert ".." not in name.split("/")
    assert not re.search(r"[\x00-\x1f\x7f]", name)


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40))
def test_curl_lines_survive_a_shell(key):
    """A shell splits a curl line into exactly the URL and the file that were meant."""
    link = signer().get(key)
    words = shlex.split(link.curl())
    assert words[-1] == link.url
    assert words[words.index("-o") + 1] == link.file
    assert "\n" not in link.curl()


def test_signed_prefix_as_boto3_gives_it():
    """The fields meet the policy that they carry, and end in what the store expands to the file's name."""
    target = signer().post("in/", max_bytes=10)
    fields = post_fields(target)
    assert fields["key"] == "in/${filename}"
    now = int(NOW.timestamp())
    assert violations(target.policy, fields, 10, now) == []
    assert violations(target.policy, fields, 11, now)
    assert violations(target.policy, {**fields, "key": "other/x"}, 1, now)


def test_a_grant_for_a_prefix_is_a_grant():
    """The agent's own parser reads it; the manifest's policy is below the prefix and small."""
    made = signer().grant("in/", max_bytes=10)
    parsed = parse(dump(made))
    assert (parsed.job, parsed.outputs.prefix, parsed.status.prefix) == ("in", "in/", "in/.freepost/")
    assert json.loads(parsed.outputs.policy)["expiration"] == "2026-11-23T13:00:00Z"
    assert signer().grant("", max_bytes=10).job == "drop"


@pytest.mark.parametrize("limit", [0, (5 << 30) + 1])
def test_a_post_carries_a_byte_to_five_gib(limit):
    """No policy promises what one POST can't carry."""
    with pytest.raises(BadInput):
        signer().post("p/", max_bytes=limit)
    with pytest.raises(BadInput):
        signer().grant("p/", max_bytes=limit)


HOSTILE = "</script><script>alert(1)</script>\"'&{{7*7}}"


def test_nothing_breaks_out_of_the_form():
    """A hostile title, prefix and address reach the page as text; no script runs but ours, by its hash."""
    options = pages.FormOptions(HOSTILE, 1000, f"https://example.org/?q={HOSTILE}")
    page = pages.upload_form(signer(), f"{HOSTILE}/", options)
    assert "<script>alert" not in page
    assert page.count("<script") == page.count("</script>") == 2
    assert "49" not in re.search("<title>(.*?)</title>", page)[1]
    data = json.loads(re.search(r'id="page">(.*?)</script>', page, re.DOTALL)[1])
    assert data["prefix"] == f"{HOSTILE}/"
    policy = re.search('Content-Security-Policy" content="(.*?)"', page)[1]
    assert "unsafe" not in policy
    assert "default-src &#39;none&#39;" in policy


def test_the_form_loads_nothing():
    """Every address in the page is the bucket's or the one that follows an upload."""
    page = pages.upload_form(signer(), "in/", pages.FormOptions("Upload", 1000, "https://example.org/thanks"))
    assert set(re.findall(r"https?://[^/\"' ;&]+", page)) == {BUCKET.url.rstrip("/"), "https://example.org"}
    assert not re.search(r"<(link|img)\b|\bsrc=|@import|url\(", page)


def test_the_plain_form_meets_its_own_policy():
    """The hidden inputs are the fields of a policy that takes a file and refuses a form that was sent without one."""
    page = pages.upload_form(signer(), "in/", pages.FormOptions("Upload", 1000, "https://example.org/thanks?a=1&b=2"))
    fields = dict(re.findall(r'<input type="hidden" name="(.*?)" value="(.*?)">', page))
    fields = {name: value.replace("&amp;", "&") for name, value in fields.items()}
    text = base64.b64decode(fields["policy"]).decode()
    now = int(NOW.timestamp())
    assert violations(text, fields, 1000, now) == []
    assert violations(text, fields, 0, now)
    assert page.index('type="file" id="file"') > page.rindex('type="hidden"'), "the file is the last field"


@pytest.mark.parametrize("url", ["javascript:alert(1)", "/thanks", "example.org", "file:///etc/passwd"])
def test_the_next_page_is_on_the_web(url):
    """A form leads to an http or https address only."""
    with pytest.raises(BadInput, match="success_url: "):
        pages.upload_form(signer(), "in/", pages.FormOptions("Upload", 1000, url))


def test_the_index_holds_each_link_once():
    """Names are text, addresses are whole, and a QR code is drawn in place."""
    found = [signer().get("in/<b>.txt", size=1), signer().get("in/c.txt", size=1_234_567)]
    page = pages.index_page(found, title="Files & more", qr=True)
    assert "&lt;b&gt;.txt" in page
    assert "<h1>Files &amp; more</h1>" in page
    assert page.count(found[1].url.replace("&", "&amp;")) == 1
    assert page.count("<svg") == 2
    assert "1.23 MB" in page
    assert "<script" not in page


def test_a_link_too_long_to_scan_is_refused():
    """A link that a session's token makes too long to scan gets no code, and the error holds no part of it."""
    link = signer(60, Credentials("ASIAEXAMPLE", "s", "t" * 1800)).get("k")
    with pytest.raises(BadInput, match="too long") as caught:
        pages.qr_text(link)
    assert "ttt" not in str(caught.value)
    assert "█" in pages.qr_text(signer().get("k"))


def test_cors_rules_are_merged():
    """Others' rules stay as they are and in order; ours is added once and gathers origins."""
    theirs = {"ID": "site", "AllowedOrigins": ["https://a"], "AllowedMethods": ["GET"]}
    once = cors.merged([theirs], ["https://b"])
    assert once == [theirs, cors.rule(["https://b"])]
    assert cors.merged(once, ["https://b"]) == once
    assert cors.merged(once, ["https://c"])[1]["AllowedOrigins"] == ["https://b", "https://c"]
    with pytest.raises(BadInput, match="100"):
        cors.merged([theirs] * 100, ["*"])
