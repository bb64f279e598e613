"""Keeps a grant alive where no credentials are: fetches a renewed one in time, and lets uploads wait for it.

All uploads of a process share one Renewal, whose `make_uploader` takes the place of `agent.upload.new_uploader`. A
renewed grant is looked for when a third of the present one's time is left, in the midst of an upload, too, and whenever
the store says that it has expired. Until it comes, uploads wait; they fail, with ExitCode.EXPIRED, when none can come
any more: after the mailbox's ``until``, the job's deadline, at which its VM powers off.

A renewed grant is for the same job, task, attempt, URLs and prefixes, or it is refused. It replaces the grant file in
one step, so that other processes, and the next boot, find it; one process at a time looks for it (``grant.json.lock``,
which isn't empty when somebody has said that uploads wait). Inputs stay as they were.

A source of grants is a function: of the present grant, to the JSON of the next one, in bytes. It returns None while
there is none, and raises TransferError, which is `permanent` when it will never give one.
"""

import fcntl
import json
import os
import threading
import time

from agent.companion import Companion
from agent.console import say
from agent.errors import ExitCode, TransferError, error_from_reply
from agent.grant import GrantError, instant, parse, timestamp
from agent.grantfile import replace
from agent.http import HttpConnection
from agent.layout import LOCK
from agent.upload import new_uploader

TRIES = 3  # at an object during which the grant expires
SOONEST, LATEST = 0.2, 15  # seconds between two looks; a tenth of the third that is left, in between


class Renewal:
    """A grant in the file `path`, renewed by `source` until `until` (seconds since 1970)."""

    def __init__(self, path, source, until, say):
        self.path, self.source, self.until, self.say = path, source, until, say
        self.lock, self.last_error, self.given_up = threading.Lock(), "", None
        self.read()

    def read(self):
        """Take in the file: another process may have replaced it."""
        with open(self.path) as file:
            text = file.read()
            self.grant, self.document = parse(text), json.loads(text)
            third = (self.grant.expires - os.fstat(file.fileno()).st_mtime) / 3
        self.pause = max(SOONEST, min(LATEST, third / 10))
        self.next_look = self.grant.expires - third

    def make_uploader(self, target, expires=0, **more):
        """Return an uploader (as `agent.upload.new_uploader` does) that always has the newest grant."""
        return RenewedUploader(self, target, expires, **more)

    def wait_for_renewal(self, grant, error, throttle):
        """Wait for a newer grant than that which failed, by `error`. Raise TransferError once there can be none."""
        self.next_look = min(self.next_look, time.time() + self.pause)  # whatever our clock says
        while True:
            self.renew(True)
            if self.grant != grant:
                return
            if self.given_up:
                raise TransferError("the grant has expired; %s" % self.given_up, self.given_up.exit, True)
            if time.time() > self.until:
                text = "%s; no renewed grant came until %s. %s" % (error, timestamp(self.until), self.last_error)
                raise TransferError(text.rstrip(". "), ExitCode.EXPIRED, True)
            throttle(0)  # raises when the push is over
            time.sleep(min(1, self.pause))  # no event tells of an object in a bucket

    def renew_if_due(self):
        """Look for a renewed grant if it is time to, unless another thread does so already."""
        if time.time() > self.next_look:
            self.renew(False)

    def renew(self, waiting):
        """Look for a renewed grant if it is time to. Unless `waiting`, return at once while another thread looks."""
        if self.lock.acquire(waiting):
            try:
                with open(LOCK % self.path, "a") as shared:
                    fcntl.flock(shared, fcntl.LOCK_EX)
                    if time.time() > self.next_look:
                        self.read()
                    if time.time() > self.next_look:
                        self.next_look = time.time() + self.pause
                        while self.ask_source():
                            shared.truncate(0)
                        if waiting and time.time() > self.grant.expires and not os.fstat(shared.fileno()).st_size:
                            shared.write("-")
                            self.say("the grant has expired; uploads wait for a renewed one")
            finally:
                self.lock.release()

    def ask_source(self):
        """Ask the source once. Return whether there is something new."""
        old = self.grant
        try:
            text = self.source(old)
            new = text and parse(text)
            if new and immutable_fields(new) != immutable_fields(old):
                raise GrantError("it is for something else")
        except (TransferError, GrantError) as error:
            self.note_error(error)
            return False
        self.last_error = ""
        if new:
            self.write(new, json.loads(text.decode()))
        return new

    def note_error(self, error):
        """Say that the source failed, unless this was said last; give up where it will never give a grant."""
        text = str(error)
        if isinstance(error, GrantError):
            text = "a renewed grant is refused: " + text
        elif error.permanent:
            self.given_up, self.next_look = error, 1e99
        if text != self.last_error:
            self.last_error = text
            self.say(text)

    def write(self, new, document):
        """Replace the file by a renewed grant, given parsed and as its JSON document, and take it in."""
        kept = self.document
        if new.expires <= self.grant.expires:  # an older one still tells where the next will be
            document = dict(kept, mailbox=document.get("mailbox"))
        document = dict(document, inputs=kept.get("inputs"), agent=kept.get("agent"))
        document = {name: value for name, value in document.items() if value is not None}
        replace(self.path, json.dumps(document).encode())
        self.read()


class RenewedUploader:
    """An uploader that waits for a renewed grant when its own has expired."""

    def __init__(self, renewal, target, expires, throttle=lambda count: None):
        self.renewal, self.outer_throttle, self.grant = renewal, throttle, None
        self.is_status = target.prefix == renewal.grant.status.prefix
        self.uploader = new_uploader(target, expires, throttle=self.throttle)

    def throttle(self, count):
        """Refresh in the midst of an upload, which may take longer than a third of the grant's time."""
        self.outer_throttle(count)
        self.refresh()

    def refresh(self):
        """Have the newest grant."""
        self.renewal.renew_if_due()
        if self.grant != self.renewal.grant:
            self.grant = grant = self.renewal.grant
            self.uploader.use(grant.status if self.is_status else grant.outputs, grant.expires)

    def close(self):
        """Hang up."""
        self.uploader.close()

    def post(self, name, data):
        """Store one object, as the uploader does."""
        tries = 0
        while True:
            self.refresh()
            grant, began = self.grant, time.time()
            try:
                return self.uploader.post(name, data)
            except TransferError as error:
                if error.exit != ExitCode.EXPIRED:
                    raise
                tries += began < grant.expires  # by our clock it was good when we began
                if tries == TRIES:
                    raise TransferError("grants are too short for it: %s" % error, ExitCode.EXPIRED) from None
                self.renewal.wait_for_renewal(grant, error, self.outer_throttle)


def immutable_fields(grant):
    """What stays as it is when a grant is renewed."""
    mailbox = (grant.mailbox or {}).get("url", "").find(grant.outputs.url)
    return grant[:3] + grant.outputs[:2] + grant.status[:2] + (mailbox,)


def fetch_from_mailbox(grant):
    """The source that is the grant's mailbox."""
    connection = HttpConnection(grant.mailbox["url"])
    try:
        status, headers, body = connection.request(("GET%s\r\n" % connection.head).encode())
    finally:
        connection.close()
    if status == 200:
        return body
    error = error_from_reply(status, headers, body, False)
    if error.exit == ExitCode.EXPIRED:
        raise TransferError("the mailbox has expired, too", ExitCode.EXPIRED, True)
    if error.exit != ExitCode.REFUSED:  # 404; or 403, from a store that doesn't tell those who may not list
        raise error


def mailbox_renewal(grant, path):
    """Return the Renewal of the grant at `path`, which has a mailbox."""
    return Renewal(path, fetch_from_mailbox, instant(grant.mailbox["until"]), say)


class ExpiryReporter(Companion):
    """Prints which outputs have failed when the grant has expired, because the last event can't be posted then."""

    def pushed(self, result):
        """Print them."""
        for pair in result.failed if result.exit_code == ExitCode.EXPIRED else ():
            say("%s: %s" % pair)
