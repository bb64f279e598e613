"""Keeps a grant alive where no credentials are: fetches a renewed one in time, and lets uploads wait for it.

Packed only into VMs whose grant has a mailbox, so that others pay no byte for it: `install` puts itself around
`Sender.post`, through which all that is uploaded goes. A renewed grant is looked for when a third of the present one's
time is left, and whenever the store says that it has expired. Until it comes, uploads wait; they fail, with exit code
4, when none can come any more: after the mailbox's ``until``, the job's deadline, at which its VM powers off.

A renewed grant is for the same job, task, attempt, URLs, prefixes and inputs, or it is refused. It replaces the grant
file in one step, so that other processes, and the next boot, find it; what fetches it is one process at a time
(``grant.json.lock``, which also holds what was said last, so that it is said once).

A source of grants is a function: of the present grant, to the next one. It returns None while there is none, and raises
Failed, which is `fatal` when it will never give one.
"""

import fcntl
import os
import threading
import time

from agent.grant import GrantError, instant, parse, rewrite, timestamp
from agent.post import PATIENCE, Failed, Sender, Wire, refusal

TRIES = 3  # at an object during which the grant expires
SOONEST, LATEST = 0.2, 15  # seconds between two looks, a tenth of the third that is left in between


class Renewal:
    """A grant in the file `path`, renewed by `source` until `until` (seconds since 1970; 0: the source knows)."""

    def __init__(self, path, source, until, say):
        self.path, self.source, self.until, self.say = path, source, until, say
        self.lock, self.stamp, self.trouble, self.over = threading.Lock(), None, None, None
        self.read()

    def read(self):
        """Take in the file, if another process has replaced it."""
        with open(self.path, "rb") as file:
            found = os.fstat(file.fileno())
            stamp = found.st_ino, found.st_mtime_ns
            if stamp != self.stamp:
                self.stamp, self.grant = stamp, parse(file.read())
                third = (self.grant.expires - found.st_mtime) / 3
                self.pause = max(SOONEST, min(LATEST, third / 10))
                self.look = self.grant.expires - third

    def install(self):
        """Make every Sender of this process, and of those that it forks, post by the newest grant."""
        once = Sender.post

        def post(sender, name, data):
            tries = 0
            while True:
                self.refresh(sender)
                began = time.time()
                try:
                    return once(sender, name, data)
                except Failed as failure:
                    if failure.exit != 4:
                        raise
                    tries += began < sender.expires  # by our clock it was good when we began
                    if tries == TRIES:
                        text = "in %d s of sending it the grant has expired, %d times: grants are too short for it"
                        raise Failed(text % (time.time() - began, tries), 4) from None
                    self.park(sender, failure)

        Sender.post = post

    def refresh(self, sender):
        """Give a sender the newest grant."""
        if time.time() > self.look:
            self.renew(False)
        grant = self.grant
        if getattr(sender, "grant", None) is not grant:
            target = grant.status if sender.prefix == grant.status.prefix else grant.outputs
            sender.grant, sender.expires, sender.fixed = grant, grant.expires, Sender(target).fixed

    def park(self, sender, failure):
        """Wait for a newer grant than the sender's. Raise Failed once there can be none."""
        with self.lock:
            if self.grant is sender.grant and self.look > time.time() + self.pause:
                self.look = 0  # by our clock it was not yet time
        while True:
            self.renew(True)
            if self.grant is not sender.grant:
                return
            until = self.until or self.grant.expires + PATIENCE
            if self.over:
                raise Failed("the grant has expired; %s" % self.over, self.over.exit, True)
            if time.time() > until:
                text = "%s; no renewed grant came until %s" % (failure, timestamp(until))
                code = 4 if self.until or not self.trouble else self.trouble.exit
                raise Failed(text + (": %s" % self.trouble if self.trouble else ""), code, True)
            sender.pace(0)  # raises when the push is over
            time.sleep(min(1, self.pause))  # no event tells of an object in a bucket

    def renew(self, parked):
        """Look for a renewed grant if it is time to. Who isn't parked doesn't wait for others that look already."""
        if time.time() > self.look and self.lock.acquire(parked):
            try:
                if time.time() > self.look:
                    with open(self.path + ".lock", "a+") as shared:
                        fcntl.flock(shared, fcntl.LOCK_EX | (0 if parked else fcntl.LOCK_NB))
                        self.read()
                        while time.time() > self.look:
                            self.look = time.time() + self.pause
                            if not self.step():
                                break
                        if parked and time.time() > self.grant.expires:
                            until = self.until or self.grant.expires + PATIENCE
                            self.tell(shared, "the grant has expired: uploads wait for a renewed one", timestamp(until))
            except BlockingIOError:
                self.look = time.time() + self.pause
            finally:
                self.lock.release()

    def tell(self, shared, text, until):
        """Say something, unless the last that any process said was the same."""
        text = "%s, until %s" % (text, until)
        shared.seek(0)
        if shared.read() != text:
            shared.truncate(0)
            shared.write(text)
            shared.flush()
            self.say(text)

    def step(self):
        """Ask the source once. Return whether there is something new."""
        try:
            new = self.source(self.grant)
            self.trouble = None
            if new is None:
                return False
            wrong = difference(self.grant, new)
            if wrong:
                raise Failed("a renewed grant is refused: it has another %s" % wrong, 5)
        except (Failed, GrantError) as failure:
            if isinstance(failure, GrantError):
                failure = Failed("a renewed grant is refused: %s" % failure, 5)
            if failure.exit != 7 and str(failure) != str(self.trouble):
                self.say(str(failure))
            self.trouble = failure
            self.look = 1e99 if failure.fatal else max(self.look, time.time() + failure.wait)
            self.over = failure.fatal and failure
            return False
        if new.expires < self.grant.expires:  # an older one, which still tells where the next one will be
            new = self.grant._replace(mailbox=new.mailbox)
        fresh = {item["path"]: item for item in new.inputs}
        rewrite(new._replace(inputs=[fresh.get(item["path"], item) for item in self.grant.inputs]), self.path)
        self.read()
        return True


def difference(old, new):
    """Return what of a renewed grant isn't as it was; None when all is."""
    for name in ("job", "task", "attempt"):
        if getattr(old, name) != getattr(new, name):
            return name
    for name in ("outputs", "status"):
        for part in ("url", "prefix"):
            if getattr(getattr(old, name), part) != getattr(getattr(new, name), part):
                return "%s of its %s" % (part, name)
    known = {item["path"]: (item["size"], item.get("sha256")) for item in old.inputs}
    if any(known.get(item["path"]) != (item["size"], item.get("sha256")) for item in new.inputs):
        return "input"
    if new.mailbox and not (new.mailbox["url"].startswith(old.outputs.url) and instant(new.mailbox["until"])):
        return "store for its mailbox"
    return None


def mail(grant):
    """The source that is the grant's mailbox."""
    if not grant.mailbox:
        raise Failed("it names no mailbox for another one", 4, True)
    wire = Wire(grant.mailbox["url"])
    try:
        status, headers, body = wire.ask(("GET%s\r\n" % wire.head).encode())
    finally:
        wire.close()
    if status == 200:
        return parse(body)
    failure = refusal(status, headers, body, False)
    if failure.exit == 4:
        raise Failed("the mailbox has expired, too", 4, True)
    if failure.exit == 5:  # 404; or 403, from a store that doesn't tell those who may not list
        return None
    raise failure


def keep(grant, path, say):
    """Keep a grant alive if it has a mailbox. Return it with the end of its last renewal in place of its own."""
    if grant.mailbox:
        until = instant(grant.mailbox["until"])
        Renewal(path, mail, until, say).install()
        grant = grant._replace(expires=until)
    return grant


def start():
    """Make the `agent` command renew the grant that it loads."""
    from agent import command

    once = command.load

    def load(path=None):
        grant, path = once(path)
        return keep(grant, path, command.say), path

    command.load = load
