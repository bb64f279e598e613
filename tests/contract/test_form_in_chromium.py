"""The upload form in Debian's Chromium, on the embedded store, from a file (so from the origin ``null``) and a server.

Skipped where there is no Chromium; `.ci/apt-packages.txt` has it, so CI runs it.
"""

import functools
import http.server
import re
import shutil
import threading
from datetime import datetime, timedelta, timezone

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from provisioner.links import pages
from provisioner.links.signer import make_signer
from provisioner.s3.signing import Bucket, Credentials, bucket_url
from tests.support.uploads import NAMES, content

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        not (shutil.which("chromium") and shutil.which("chromedriver")),
        reason="needs Debian's chromium and chromium-driver",
    ),
]
LIMIT = 10_000
# The machine may have no GPU, no user namespaces and no network.
FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync --window-size=1000,900"""


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    """One Chromium for all tests of this file."""
    options = webdriver.ChromeOptions()
    for flag in [*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"]:
        options.add_argument(flag)
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


@pytest.fixture
def browser(chromium):
    """Chromium with scripts on, on a blank page; it must have nothing to complain about afterwards."""
    chromium.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    chromium.get_log("browser")
    yield chromium
    complaints = [line for line in chromium.get_log("browser") if "Content Security" in line["message"]]
    chromium.get("about:blank")
    assert not complaints


class Upload:
    """What a person does with the form, and what the bucket holds after it."""

    def __init__(self, browser, s3, bucket, signer, folder):
        self.browser, self.s3, self.bucket, self.signer, self.folder = browser, s3, bucket, signer, folder

    def page(self, *, age=timedelta(0), success_url="", change=None, limit=LIMIT):
        """Write a form that was signed `age` ago for an hour. `change` edits its text."""
        options = pages.FormOptions("Send us your data", limit, success_url)
        text = pages.upload_form(self.signer(datetime.now(timezone.utc) - age), "in/", options)
        path = self.folder / "upload.html"
        path.write_text(change(text) if change else text)
        return path

    def open(self, **options):
        """Open the form from a file."""
        self.browser.get(self.page(**options).as_uri())

    def file(self, name, data=b"data"):
        """Make a local file."""
        path = self.folder / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return str(path)

    def choose(self, *paths, where="files"):
        """Choose files or a folder."""
        self.browser.find_element(By.ID, where).send_keys("\n".join(paths))

    def click(self, text):
        """Press the visible button whose text begins so, once it is there."""

        def pressed(browser):
            for button in browser.find_elements(By.TAG_NAME, "button"):
                if button.is_displayed() and button.text.startswith(text):
                    button.click()
                    return True
            return False

        self.until(pressed)

    def until(self, condition, seconds=30):
        """Wait until a condition holds."""
        return WebDriverWait(self.browser, seconds, 0.05).until(condition)

    def says(self, text, where="status", seconds=30):
        """Wait until an element of the page says something."""
        self.until(lambda browser: text in browser.find_element(By.ID, where).text, seconds)

    def rows(self):
        """Return what the list says of each file."""
        return {
            row.find_element(By.CLASS_NAME, "name").text: row.find_element(By.CLASS_NAME, "what").text
            for row in self.browser.find_elements(By.CSS_SELECTOR, "#list li")
        }

    def stored(self):
        """Return each key and its bytes."""
        found = self.s3.list_objects_v2(Bucket=self.bucket).get("Contents", ())
        return {item["Key"]: self.s3.get_object(Bucket=self.bucket, Key=item["Key"])["Body"].read() for item in found}


@pytest.fixture
def upload(browser, store, s3, bucket, tmp_path):
    """The form of a bucket of its own."""
    place = Bucket(bucket, store.region, bucket_url(store.endpoint_url, bucket, custom=True))
    credentials = Credentials(store.access_key, store.secret_key)

    def signer(now):
        return make_signer(place, credentials, now=now, seconds=3600)

    return Upload(browser, s3, bucket, signer, tmp_path)


class Site(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; and a bucket that is busy `busy` times before it takes an upload, or that never answers."""

    busy, gate = 0, None

    def do_OPTIONS(self):
        """Answer a preflight."""
        self.answer(200)

    def do_POST(self):
        """Take an upload, in the end."""
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.gate is not None:
            self.server.gate.wait(30)
        self.server.posts += 1
        if self.server.posts <= self.server.busy:
            self.answer(503, b"<Error><Code>SlowDown</Code><Message>Reduce your rate.</Message></Error>")
        else:
            self.answer(201)

    def answer(self, status, body=b""):
        """Answer so that any page may read it."""
        self.send_response(status)
        self.send_header("Access-Control-Allow-Origin", "*")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def site(tmp_path):
    """A web server of the test's own folder."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Site, directory=tmp_path))
    server.posts, server.busy, server.gate = 0, 0, None
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    if server.gate is not None:
        server.gate.set()
    server.shutdown()
    thread.join()
    server.server_close()


def instead(upload, url):
    """Return a change of the page that makes `url` its store."""
    return lambda text: text.replace(upload.signer(datetime.now(timezone.utc)).bucket.url.rsplit("/", 2)[0], url)


def test_several_files_and_a_folder(upload):
    """Files and a folder's files arrive whole, each under its path, with its type; twins of one name both arrive."""
    upload.open()
    files = {"a.txt": b"a" * 5000, "b ü.csv": b"x,y\n", "empty": b"", "other/a.txt": b"another"}
    for name, data in files.items():
        upload.file(name, data)
    for name in ("one.bin", "deep/er/two.bin"):
        upload.file(f"tree/{name}", name.encode())
    upload.choose(*(str(upload.folder / "files" / name) for name in files))
    upload.choose(str(upload.folder / "files/tree"), where="folder")
    upload.says("2 files chosen.")
    upload.click("Upload 6 files")
    upload.says("6 files uploaded.")
    assert upload.stored() == {
        "in/a.txt": files["a.txt"],
        "in/a (2).txt": files["other/a.txt"],
        "in/b ü.csv": files["b ü.csv"],
        "in/empty": b"",
        "in/tree/one.bin": b"one.bin",
        "in/tree/deep/er/two.bin": b"deep/er/two.bin",
    }
    assert upload.s3.head_object(Bucket=upload.bucket, Key="in/b ü.csv")["ContentType"] == "text/csv"
    assert set(upload.rows().values()) == {
        "Uploaded, 5 kB",
        "Uploaded, 4 bytes",
        "Uploaded, 0 bytes",
        "Uploaded, 7 bytes",
        "Uploaded, 15 bytes",
    }


def test_every_kind_of_file_arrives_as_by_any_other_way(upload, seaweed, used):
    """The names and contents of the suite of uploads (test_uploads.py), chosen as a folder in the page."""
    used["Chromium"] = upload.browser.capabilities["browserVersion"]
    upload.open()
    for name in NAMES:
        upload.file(f"tree/{name}", content(name))
    upload.choose(str(upload.folder / "files/tree"), where="folder")
    upload.click(f"Upload {len(NAMES)} files")
    upload.says(f"{len(NAMES)} files uploaded.")
    # What a browser would change on its way, and what a store would expand, has its percent form in the key.
    keys = {name: "in/tree/" + name.replace("\n", "%0A").replace("${", "%24{") for name in NAMES}
    assert upload.stored() == {keys[name]: content(name) for name in NAMES}


@pytest.mark.parametrize("handles", [True, False], ids=["handles", "entries"])
def test_dropped_folders_arrive(upload, site, handles):
    """What is dropped anywhere on the page is taken, folders with all that is in them, in both ways to read them."""
    upload.open()
    if not handles:  # as in Firefox and Safari; Chromium gives no entries to a page from a file
        upload.browser.get(f"{site.url}/upload.html")
        upload.browser.execute_script("delete DataTransferItem.prototype.getAsFileSystemHandle")
    for number in range(120):  # more than a folder's reader gives at once
        upload.file(f"tree/sub/{number:03}.txt", b"%d" % number)
    paths = [str(upload.folder / "files/tree"), upload.file("single.txt", b"s")]
    data = {"items": [], "files": paths, "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        upload.browser.execute_cdp_cmd("Input.dispatchDragEvent", {"type": kind, "x": 500, "y": 500, "data": data})
    upload.says("121 files chosen.")
    upload.click("Upload 121 files")
    upload.says("121 files uploaded.", seconds=60)
    assert len(upload.stored()) == 121
    assert upload.stored()["in/tree/sub/119.txt"] == b"119"


def test_too_large_is_refused_before_it_is_sent(upload):
    """A file over the limit is refused with both sizes, and nothing of it is sent; the others go."""
    upload.open()
    upload.choose(upload.file("big.bin", b"x" * (LIMIT + 1)), upload.file("small.bin"))
    upload.says("2 files chosen, 1 of them cannot be uploaded.")
    upload.click("Upload 1 file")
    upload.says("1 uploaded, 1 not uploaded.")
    assert upload.rows()["big.bin"] == "Too large: 10 kB, and this page takes up to 10 kB a file."
    assert set(upload.stored()) == {"in/small.bin"}


def test_the_servers_refusal_is_in_words(upload):
    """A page whose own limit was tampered with meets the store's, and the person a sentence, not XML."""
    upload.open(change=lambda text: text.replace(f'"maxBytes": {LIMIT}', '"maxBytes": 99000000'))
    upload.choose(upload.file("big.bin", b"x" * 2_000_000))
    upload.click("Upload 1 file")
    upload.says("0 uploaded, 1 not uploaded.")
    assert upload.rows()["big.bin"].startswith("The store refused it: ")
    assert "<" not in upload.rows()["big.bin"]
    assert upload.stored() == {}


def test_an_expired_page_says_so(upload):
    """An expired page warns at once; the store's refusal ends it: no retry, no button, one message for all files."""
    upload.open(age=timedelta(hours=2))
    assert "this page has expired" in upload.browser.find_element(By.ID, "notice").text
    upload.choose(*(upload.file(f"{number}.txt") for number in range(5)))
    upload.click("Upload 5 files")
    upload.says("0 uploaded, 5 not uploaded.")
    assert upload.browser.find_element(By.ID, "notice").text == (
        "This page has expired. Ask whoever gave you this page for a new one."
    )
    assert not upload.browser.find_element(By.ID, "go").is_enabled()
    assert upload.stored() == {}


@pytest.mark.parametrize("redirects", [False, True])
def test_without_javascript(upload, site, redirects):
    """Without JavaScript the page is a plain form: it uploads under the file's own name, and shows what came of it."""
    (upload.folder / "thanks.html").write_text("<h1>Thank you</h1>")
    upload.browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    upload.open(success_url=f"{site.url}/thanks.html" if redirects else "")
    assert not upload.browser.find_element(By.ID, "many").is_displayed()
    upload.browser.find_element(By.ID, "file").send_keys(upload.file("plain.txt", b"plain"))
    upload.click("Upload")
    if redirects:
        upload.until(lambda browser: browser.current_url.startswith(f"{site.url}/thanks.html"))
    else:
        upload.browser.switch_to.frame("answer")
        upload.until(lambda browser: "in/plain.txt" in browser.page_source)
    assert upload.stored() == {"in/plain.txt": b"plain"}


def test_a_refusal_without_javascript(upload):
    """Without JavaScript, the store's error stands in the page, and the form stays for another file."""
    upload.browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    upload.open()
    upload.browser.find_element(By.ID, "file").send_keys(upload.file("big.bin", b"x" * 2_000_000))
    upload.click("Upload")
    upload.browser.switch_to.frame("answer")
    upload.until(lambda browser: re.search("TooLarge|AccessDenied", browser.page_source))
    upload.browser.switch_to.default_content()
    assert upload.browser.find_element(By.ID, "file").is_displayed()
    assert upload.stored() == {}


def test_it_leads_on_when_all_is_uploaded(upload, site):
    """With JavaScript, the success page is a link that appears when everything is stored."""
    upload.open(success_url=f"{site.url}/thanks.html")
    assert not upload.browser.find_element(By.ID, "next").is_displayed()
    upload.choose(upload.file("a.txt"))
    upload.click("Upload 1 file")
    upload.says("1 file uploaded.")
    following = upload.until(lambda browser: browser.find_element(By.ID, "next"))
    assert following.is_displayed()
    assert following.get_attribute("href") == f"{site.url}/thanks.html"


def test_from_another_origin(upload, site):
    """Served by a web server, the page uploads as well: the store answers its preflight."""
    upload.page()
    upload.browser.get(f"{site.url}/upload.html")
    upload.choose(upload.file("a.txt"))
    upload.click("Upload 1 file")
    upload.says("1 file uploaded.")
    assert set(upload.stored()) == {"in/a.txt"}


def test_a_busy_store_is_tried_again(upload, site):
    """SlowDown is tried again by itself, and the file arrives."""
    site.busy = 2
    upload.open(change=instead(upload, site.url))
    upload.choose(upload.file("a.txt"))
    upload.click("Upload 1 file")
    upload.says("1 file uploaded.")
    assert site.posts == 3


def test_cancel(upload, site):
    """Cancelling one file keeps the others going; cancelling all stops; what was cancelled can be tried again."""
    site.gate = threading.Event()
    upload.open(change=instead(upload, site.url))
    upload.choose(*(upload.file(f"{number}.txt") for number in range(3)))
    upload.click("Upload 3 files")
    upload.until(lambda _: "waiting for the store" in upload.rows()["0.txt"])
    upload.click("Cancel")  # the first visible one is Cancel all
    upload.says("0 uploaded, 3 not uploaded.")
    assert set(upload.rows().values()) == {"Cancelled."}
    site.gate.set()
    upload.click("Try again")
    upload.says("1 uploaded, 2 not uploaded.")


def test_cancel_one_file(upload, site):
    """Cancelling one file by its own button ends its upload alone: the others arrive, and it can be tried again."""
    site.gate = threading.Event()
    upload.open(change=instead(upload, site.url))
    upload.choose(*(upload.file(f"{number}.txt") for number in range(3)))
    upload.click("Upload 3 files")
    upload.until(lambda _: all("waiting for the store" in what for what in upload.rows().values()))
    upload.browser.find_element(By.CSS_SELECTOR, "[aria-label='Cancel 1.txt']").click()
    assert upload.rows()["1.txt"] == "Cancelled."
    site.gate.set()
    upload.says("2 uploaded, 1 not uploaded.")
    rows = upload.rows()
    assert (rows["0.txt"], rows["1.txt"], rows["2.txt"]) == ("Uploaded, 4 bytes", "Cancelled.", "Uploaded, 4 bytes")
    upload.browser.find_element(By.CSS_SELECTOR, "[aria-label='Try again 1.txt']").click()
    upload.says("3 files uploaded.")
    assert upload.rows()["1.txt"] == "Uploaded, 4 bytes"


def test_progress_of_each_file_and_of_all(upload, site):
    """Bars and words tell what was sent of a file and of all files, while they are sent and when they are stored."""
    site.gate = threading.Event()
    upload.open(change=instead(upload, site.url))
    upload.choose(upload.file("a.bin", b"a" * 3000), upload.file("b.bin", b"b" * 7000))
    upload.click("Upload 2 files")
    upload.until(lambda _: all("sent, waiting for the store" in what for what in upload.rows().values()))

    def bar(where):
        """What a bar shows: its value and its end."""
        found = upload.browser.find_element(By.CSS_SELECTOR, where)
        return float(found.get_property("value")), float(found.get_property("max"))

    assert bar("#list li:nth-child(1) progress") == (3000, 3000)
    assert bar("#list li:nth-child(2) progress") == (7000, 7000)
    upload.says("0 of 2 files uploaded, 10 kB of 10 kB", where="sum")
    assert bar("#bar") == (10_000, 10_000)
    site.gate.set()
    upload.says("2 files uploaded.")
    upload.says("2 of 2 files uploaded, 10 kB of 10 kB", where="sum")
    assert not upload.browser.find_element(By.ID, "bar").is_displayed()


def test_progress_in_the_midst_of_a_file(upload):
    """At 200 kB/s the bar of a file rises between nothing and all, and that of all files with it."""
    upload.open(limit=1_000_000)
    upload.choose(upload.file("a.bin", b"a" * 400_000))
    upload.browser.execute_cdp_cmd("Network.enable", {})
    slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 200_000}
    upload.browser.execute_cdp_cmd("Network.emulateNetworkConditions", slow)
    try:
        upload.browser.execute_script(WATCH)
        upload.click("Upload 1 file")
        upload.says("1 file uploaded.")
    finally:
        upload.browser.execute_cdp_cmd("Network.emulateNetworkConditions", {**slow, "uploadThroughput": -1})
    seen = upload.browser.execute_script("return window.seen")
    for number, end in ((0, 400_000), (1, 400_000)):
        values = [each[number] for each in seen if each[number] is not None]
        assert values == sorted(values)
        assert any(0 < value < end for value in values), values


# Notes what the bars of the first file and of all show, frame by frame, as long as they are there.
WATCH = """
window.seen = [];
const note = () => {
  const bars = [document.querySelector("#list progress"), document.getElementById("bar")];
  window.seen.push(bars.map((bar) => (bar && !bar.hidden ? bar.value : null)));
  requestAnimationFrame(note);
};
note();
"""


def test_a_store_that_can_not_be_reached(upload, site):
    """When no answer comes, the page says so, offers to try again, and brings back the plain form."""
    nobody = site.url.replace(str(site.server_port), "9")
    upload.open(change=instead(upload, nobody))
    upload.choose(upload.file("a.txt"))
    upload.click("Upload 1 file")
    upload.says("0 uploaded, 1 not uploaded.", seconds=40)
    assert "could not be reached" in upload.rows()["a.txt"]
    assert upload.browser.find_element(By.ID, "one").is_displayed()
    assert [button.text for button in upload.browser.find_elements(By.CSS_SELECTOR, "#list button")] == [
        "Try again",
        "Remove",
    ]


def test_a_file_that_has_gone(upload):
    """A file that was changed after it was chosen is named as the fault, not the network."""
    upload.open()
    path = upload.file("gone.txt")
    upload.choose(path)
    (upload.folder / "files/gone.txt").unlink()
    upload.click("Upload 1 file")
    upload.says("0 uploaded, 1 not uploaded.")
    assert "can no longer be read" in upload.rows()["gone.txt"]


def test_by_keyboard(upload):
    """Everything is reached and pressed by keyboard, the focus is never lost, and what happens is announced."""
    upload.open()
    keys = webdriver.ActionChains(upload.browser)
    seen = []
    for _ in range(2):
        keys.send_keys(Keys.TAB).perform()
        seen.append(upload.browser.switch_to.active_element.get_attribute("id"))
    assert seen == ["files", "folder"]
    upload.choose(upload.file("a.txt"), upload.file("b.txt"))
    upload.until(lambda browser: browser.find_element(By.ID, "go").is_displayed())
    upload.browser.find_element(By.CSS_SELECTOR, "#list li:last-child button:not([hidden])").send_keys(Keys.ENTER)
    assert upload.browser.switch_to.active_element.accessible_name == "Remove a.txt"
    upload.browser.find_element(By.ID, "go").send_keys(Keys.ENTER)
    upload.says("1 file uploaded.")
    upload.until(lambda browser: browser.switch_to.active_element.tag_name != "body")
    assert upload.browser.find_element(By.ID, "status").get_attribute("role") == "status"


def test_everything_has_a_name(upload):
    """Each control and each progress bar has a name for those who can't see it."""
    upload.open()
    upload.choose(upload.file("a.txt"), upload.file("big.bin", b"x" * (LIMIT + 1)))
    upload.says("2 files chosen")
    controls = upload.browser.find_elements(By.CSS_SELECTOR, "input:not([type=hidden]), button, progress, iframe")
    shown = [control for control in controls if control.is_displayed() or control.get_attribute("class") == "unseen"]
    assert len(shown) >= 5
    assert all(control.accessible_name for control in shown), [control.get_attribute("outerHTML") for control in shown]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1000])
def test_it_fits_and_can_be_read(upload, scheme, width):
    """No width makes it scroll sideways; in both schemes, text stands out from its ground by 4.5 to 1 (WCAG AA)."""
    command = upload.browser.execute_cdp_cmd
    command("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    command(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 700, "deviceScaleFactor": 1, "mobile": False}
    )
    try:
        upload.open(age=timedelta(hours=2))
        name = "a-long-name-without-a-break-" * 5
        upload.choose(upload.file(name), upload.file("big.bin", b"x" * (LIMIT + 1)))
        upload.says("2 files chosen")
        assert upload.browser.execute_script("return document.documentElement.scrollWidth") <= width
        assert upload.browser.execute_script(CONTRAST) == []
    finally:
        command("Emulation.clearDeviceMetricsOverride", {})
        command("Emulation.setEmulatedMedia", {"features": []})


# Names the visible elements with text of their own whose contrast is below 4.5 (WCAG 2.1, relative luminance).
CONTRAST = """
const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
const light = (color) => color.slice(0, 3).map((c) => c / 255)
  .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
  .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
function ground(node) {
  for (; node; node = node.parentElement) {
    const color = rgb(getComputedStyle(node).backgroundColor);
    if (color.length < 4 || color[3] === 1) return light(color);
  }
  return 1;
}
return [...document.querySelectorAll("main *")].filter((node) => {
  const words = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
  if (!words || !node.checkVisibility() || node.matches(".unseen, :disabled")) return false;
  const pair = [light(rgb(getComputedStyle(node).color)), ground(node)].sort((a, b) => b - a);
  return (pair[0] + 0.05) / (pair[1] + 0.05) < 4.5;
}).map((node) => node.outerHTML);
"""
