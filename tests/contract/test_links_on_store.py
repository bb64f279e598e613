"""`provision url`, `sign` and `form` on a real store: what they print is used as a person would use it."""

import hashlib
import json
import os
import shutil
import subprocess
import sys

import pytest
import requests

from provisioner.cli import app
from provisioner.embedded.server import EmbeddedStore
from provisioner.errors import BadInput, NoCredentials, NotFound
from provisioner.s3 import cors

BODY = b"what the job made\n"


@pytest.fixture
def provision(store, bucket, capfd, monkeypatch):
    """Run `provision` with the store's keys in the environment; return (exit code, standard output, standard error)."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", store.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", store.secret_key)
    monkeypatch.setenv("FREEPOST_ENDPOINT_URL", store.endpoint_url)

    def run(*words):
        code = app.main([word.replace("BUCKET", bucket) for word in words])
        out, err = capfd.readouterr()
        return code, out, err

    return run


@pytest.fixture
def objects(s3, bucket):
    """Return a function that reads the bucket: each key and its bytes."""

    def read():
        found = s3.list_objects_v2(Bucket=bucket).get("Contents", ())
        return {item["Key"]: s3.get_object(Bucket=bucket, Key=item["Key"])["Body"].read() for item in found}

    return read


def paste(line, folder):
    """Run a line of curl's as if it were pasted into a shell; skip what is left of the test where there is no curl."""
    if not shutil.which("curl"):
        pytest.skip("needs curl, of Debian's curl")
    return subprocess.run(["sh", "-c", line], cwd=folder, capture_output=True, text=True, check=False)


def test_a_download_link_downloads(provision, s3, bucket):
    """The printed URL gives the object, under the name, type and caching that were asked for."""
    s3.put_object(Bucket=bucket, Key="out/ü b.csv", Body=BODY)
    code, out, err = provision(
        *("url", "get", "s3://BUCKET/out/ü b.csv", "--filename", "zwölf.csv", "--content-type", "text/csv"),
        *("--header", "Cache-Control: no-store"),
    )
    assert (code, err) == (0, "")
    answer = requests.get(out.strip(), timeout=10)
    assert answer.content == BODY
    assert "filename*=UTF-8''zw%C3%B6lf.csv" in answer.headers["Content-Disposition"]
    assert (answer.headers["Content-Type"], answer.headers["Cache-Control"]) == ("text/csv", "no-store")


def test_a_prefix_gives_one_url_for_each_key(provision, s3, bucket, tmp_path):
    """All that is below a prefix is printed, and the curl lines rebuild its folders."""
    for name in ("a.txt", "sub/b.txt", "sub/--help", "we ird'$(id)\".txt", "z[1-3]{a,b}#1.txt"):
        s3.put_object(Bucket=bucket, Key=f"out/{name}", Body=name.encode())
    code, out, _ = provision("url", "get", "s3://BUCKET/out/", "--curl")
    assert code == 0
    assert len(out.splitlines()) == 5
    for line in out.splitlines():
        done = paste(line, tmp_path)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "sub/--help").read_text() == "sub/--help"
    assert (tmp_path / "we ird'$(id)\".txt").read_text() == "we ird'$(id)\".txt"
    assert (tmp_path / "z[1-3]{a,b}#1.txt").read_text() == "z[1-3]{a,b}#1.txt"
    document = json.loads(provision("url", "get", "s3://BUCKET/out/", "--json")[1])
    assert [item["size"] for item in document["links"]] == [5, 10, 9, 17, 17]
    assert requests.get(document["links"][0]["url"], timeout=10).text == "a.txt"


def test_two_keys_of_one_name_become_two_files(provision, s3, bucket, tmp_path):
    """Their curl lines save each under its whole key, and a name that there is once stays short."""
    for key in ("a/x", "b/x", "b/y"):
        s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
    _, out, _ = provision("url", "get", *(f"s3://BUCKET/{key}" for key in ("a/x", "b/x", "b/y", "b/y")), "--curl")
    for line in out.splitlines():
        assert paste(line, tmp_path).returncode == 0
    found = {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {f"{bucket}/a/x": "a/x", f"{bucket}/b/x": "b/x", "y": "b/y"}


def test_an_upload_takes_the_file_that_was_named(provision, objects, tmp_path):
    """--file is a path as it is, absolute or above the folder, and no pattern of curl's."""
    (tmp_path / "below").mkdir()
    for number, name in enumerate([str(tmp_path / "a.csv"), "../b[1-3].csv", "{c,d} #1.csv", "-e.csv"]):
        (tmp_path / "below" / name).write_bytes(str(number).encode())
        code, line, _ = provision("url", "put", f"s3://BUCKET/in/{number}", "--file", name, "--curl")
        assert code == 0
        done = paste(line, tmp_path / "below")
        assert done.returncode == 0, done.stderr
    assert objects() == {f"in/{number}": str(number).encode() for number in range(4)}


def test_an_index_and_codes(provision, s3, bucket, tmp_path):
    """--html writes a page instead of lines; --qr prints a code below each line."""
    s3.put_object(Bucket=bucket, Key="a.txt", Body=BODY)
    page = tmp_path / "index.html"
    code, out, err = provision("url", "get", "s3://BUCKET/a.txt", "--html", str(page), "--title", "Yours", "--qr")
    assert (code, out) == (0, "")
    assert str(page) in err
    assert "X-Amz" not in err
    assert page.stat().st_mode & 0o777 == 0o600
    assert "<h1>Yours</h1>" in page.read_text()
    assert "<svg" in page.read_text()
    _, out, _ = provision("url", "get", "s3://BUCKET/a.txt", "--qr")
    assert "█" in out


def test_what_is_not_there_is_said(provision):
    """A key or prefix without an object, and a bucket that isn't there, end with 9 and without a URL."""
    for url in ("s3://BUCKET/none", "s3://BUCKET/none/", "s3://no-such-bucket-here/x/"):
        code, out, err = provision("url", "get", url)
        assert (code, out) == (NotFound.exit_code, "")
        assert "X-Amz" not in err
    assert provision("url", "get", "s3://BUCKET/none", "--no-check")[0] == 0


@pytest.mark.parametrize(
    "words",
    [
        ("url", "get", "s3://BUCKET/a", "--expires", "8d"),
        ("url", "get", "s3://BUCKET/a", "--expires", "soon"),
        ("url", "get", "s3://BUCKET/a", "s3://BUCKET/b", "--filename", "x"),
        ("url", "put", "s3://BUCKET/a/"),
        ("url", "put", "s3://BUCKET/a", "--size", "many"),
        ("url", "put", "s3://BUCKET/a", "--local"),
        ("sign", "http://BUCKET"),
        ("sign", "s3://BUCKET/p", "--max-bytes", "6GiB"),
        ("form", "s3://BUCKET/p", "-o", "/nowhere/x.html"),
        ("form", "s3://BUCKET/p", "-o", "-", "--success-url", "javascript:x"),
    ],
)
def test_bad_input_is_one_sentence(provision, words):
    """Bad input ends with 2 and a sentence, before anything is printed."""
    code, out, err = provision(*words)
    assert (code, out) == (BadInput.exit_code, "")
    assert "Traceback" not in err


def test_one_document_on_standard_output(provision):
    """JSON and a page can't share standard output; the error is the JSON line, then."""
    code, out, _ = provision("url", "get", "s3://BUCKET/a", "--html", "-", "--json")
    assert code == BadInput.exit_code
    assert json.loads(out)["exit_code"] == code


def test_keys_that_the_store_does_not_know(provision, monkeypatch):
    """Where the store is asked and doesn't know the key, the exit code is 3 and no URL is printed."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x" * 40)
    code, out, err = provision("url", "get", "s3://BUCKET/a/")
    assert (code, out) == (NoCredentials.exit_code, "")
    assert "credentials" in err


def limits(body):
    """The options of a slot that takes these bytes as CSV, and once."""
    digest = hashlib.sha256(body).hexdigest()
    return "--size", str(len(body)), "--sha256", digest, "--type", "text/csv", "--no-overwrite"


def test_an_upload_slot_takes_what_was_said(provision, objects):
    """A slot works once; other bytes, another type, no headers or a second time are refused."""
    slot = json.loads(provision("url", "put", "s3://BUCKET/in/x.csv", *limits(BODY), "--json")[1])
    for body, headers in (
        (BODY + b"!", slot["headers"] | {"content-length": str(len(BODY) + 1)}),
        (BODY[::-1], slot["headers"]),
        (BODY, slot["headers"] | {"content-type": "text/html"}),
        (BODY, {}),
    ):
        answer = requests.put(slot["url"], data=body, headers=headers, timeout=10)
        assert answer.status_code in {400, 403}, answer.text
    assert objects() == {}
    assert requests.put(slot["url"], data=BODY, headers=slot["headers"], timeout=10).status_code == 200
    assert objects() == {"in/x.csv": BODY}
    assert requests.put(slot["url"], data=BODY, headers=slot["headers"], timeout=10).status_code == 412


def test_a_slots_curl_line_works_once(provision, objects, tmp_path):
    """Pasted into a shell it stores the file with all that was said of it, and fails the second time."""
    (tmp_path / "x.csv").write_bytes(BODY)
    line = provision("url", "put", "s3://BUCKET/in/x.csv", *limits(BODY), "--curl")[1]
    assert paste(line, tmp_path).returncode == 0
    assert objects() == {"in/x.csv": BODY}
    assert paste(line, tmp_path).returncode == 22


def test_a_slot_names_the_headers_it_needs(provision):
    """The plain output of a slot is a URL, and standard error says what must be sent with it, but no signature."""
    code, out, err = provision("url", "put", "s3://BUCKET/k", "--no-overwrite")
    assert code == 0
    assert len(out.splitlines()) == 1
    assert "if-none-match: *" in err
    assert "X-Amz" not in err


def test_a_signed_prefix_as_json(provision, objects):
    """JSON is what boto3's users post with requests, and it keeps to the prefix and the size."""
    signed = json.loads(provision("sign", "s3://BUCKET/in", "--format", "json", "--max-bytes", "100")[1])
    assert set(signed) == {"url", "fields"}
    answer = requests.post(signed["url"], data=signed["fields"], files={"file": ("a.txt", BODY)}, timeout=10)
    assert answer.status_code == 204
    outside = signed["fields"] | {"key": "elsewhere/a.txt"}
    assert requests.post(signed["url"], data=outside, files={"file": ("a", BODY)}, timeout=10).status_code == 403
    assert (
        requests.post(signed["url"], data=signed["fields"], files={"file": ("b", BODY * 9)}, timeout=10).status_code
        >= 400
    )
    assert objects() == {"in/a.txt": BODY}


def test_a_signed_prefix_as_curl(provision, objects, tmp_path):
    """The curl line works when pasted, whatever the file is called, and keeps to the prefix."""
    (tmp_path / 'my "file";1.txt').write_bytes(BODY)
    line = provision("sign", "s3://BUCKET/in/", "--format", "curl", "--file", 'my "file";1.txt')[1]
    assert len(line.splitlines()) == 1
    done = paste(line, tmp_path)
    assert done.returncode == 0, done.stderr
    ((key, body),) = objects().items()
    assert (key.startswith("in/"), body) == (True, BODY)


def test_a_signed_prefix_as_a_grant(provision, objects, tmp_path):
    """`agent push --grant FILE` uploads with the printed grant, and writes its manifest below the prefix."""
    (tmp_path / "grant.json").write_text(provision("sign", "s3://BUCKET/in", "--max-bytes", "1MB")[1])
    (tmp_path / "a.txt").write_bytes(BODY)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    push = [sys.executable, "-m", "agent", "push", "--grant", "grant.json", "a.txt"]
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run(push, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = objects()
    assert found["in/a.txt"] == BODY
    manifest = json.loads(found["in/.freepost/manifest.json"])
    assert manifest["entries"][0]["sha256"] == hashlib.sha256(BODY).hexdigest()


def test_the_form_sets_cors_once(provision, s3, bucket):
    """--cors adds our rule beside those that stand, and leaves a bucket alone that allows the page already."""
    theirs = {"ID": "site", "AllowedOrigins": ["https://a.example"], "AllowedMethods": ["GET"]}
    s3.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": [theirs]})
    code, page, err = provision("form", "s3://BUCKET/in", "-o", "-")
    assert code == 0
    assert page.startswith("<!doctype html>")
    assert "--cors" in err
    assert "X-Amz" not in err
    assert "now allows" in provision("form", "s3://BUCKET/in", "-o", "-", "--cors")[2]
    rules = s3.get_bucket_cors(Bucket=bucket)["CORSRules"]
    assert [rule["ID"] for rule in rules] == ["site", cors.RULE_ID]
    assert rules[0]["AllowedOrigins"] == ["https://a.example"]
    assert "already allowed" in provision("form", "s3://BUCKET/in", "-o", "-", "--cors")[2]
    assert s3.get_bucket_cors(Bucket=bucket)["CORSRules"] == rules
    assert provision("form", "s3://BUCKET/in", "-o", "-")[2] == ""


@pytest.mark.e2e
def test_local_means_the_embedded_store(capfd, monkeypatch, tmp_path):
    """--local signs for the embedded store, which it starts, without any credentials of the user's."""
    monkeypatch.delenv("FREEPOST_ENDPOINT_URL", raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("FREEPOST_STATE_DIR", str(tmp_path))
    try:
        assert app.main(["sign", "s3://letters/in", "--local", "--format", "json"]) == 0
        signed = json.loads(capfd.readouterr().out)
        answer = requests.post(signed["url"], data=signed["fields"], files={"file": ("a.txt", BODY)}, timeout=10)
        assert answer.status_code == 204
        assert app.main(["url", "get", "s3://letters/in/a.txt", "--local"]) == 0
        assert requests.get(capfd.readouterr().out.strip(), timeout=10).content == BODY
    finally:
        EmbeddedStore(tmp_path).stop()
