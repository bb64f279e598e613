"""Keeps a grant alive where no credentials are: fetches a renewed one in time, and lets uploads wait for it.

`keep` is called for a grant with a mailbox; `install` puts itself around `Sender.post`, through which all that is
uploaded goes. A renewed grant is looked for when a third of the present one's
time is left, in the midst of an upload, too, and whenever the store says that it has expired. Until it comes, uploads
wait; they fail, with exit code 4, when none can come any more: after the mailbox's ``until``, the job's deadline, at
which its VM powers off.

A renewed grant is for the same job, task, attempt, URLs and prefixes, or it is refused. It replaces the grant file in
one step, so that other processes, and the next boot, find it; one process at a time looks for it (``grant.json.lock``,
which isn't empty when somebody has said that uploads wait). Inputs stay as they were.

A source of grants is a function: of the present grant, to the next one. It returns None while there is none, and raises
Failed, which is `fatal` when it will never give one.
"""

import fcntl
import os
import threading
import time

from agent.grant import GrantError, instant, parse, rewrite, timestamp
from agent.http import Failed, Sender, Wire, refusal
from agent.main import say

TRIES = 3  # at an object during which the grant expires
SOONEST, LATEST = 0.2, 15  # seconds between two looks; a tenth of the third that is left, in between


class Renewal:
    """A grant in the file `path`, renewed by `source` until `until` (seconds since 1970)."""

    def __init__(self, path, source, until, say):
        self.path, self.source, self.until, self.say = path, source, until, say
        self.lock, self.trouble, self.over = threading.Lock(), "", None
        self.read()

    def read(self):
        """Take in the file: another process may have replaced it."""
        with open(self.path) as file:
            self.grant = parse(file.read())
            third = (self.grant.expires - os.fstat(file.fileno()).st_mtime) / 3
        self.pause = max(SOONEST, min(LATEST, third / 10))
        self.look = self.grant.expires - third

    def install(self):
        """Make every Sender of this process, and of those that it forks, post by the newest grant."""
        once = Sender.post

        def fresh(sender):
            if time.time() > self.look:
                self.renew(False)
            if sender.grant != self.grant:
                sender.grant = grant = self.grant
                target = grant.status if sender.prefix == grant.status.prefix else grant.outputs
                sender.expires, sender.fixed = grant.expires, Sender(target).fixed

        def post(sender, name, data):
            if not hasattr(sender, "grant"):
                sender.grant, paced = None, sender.pace

                def pace(count):  # an upload may take longer than a third of the grant's time, or wait for its turn
                    paced(count)
                    fresh(sender)

                sender.pace = pace
            tries = 0
            while True:
                fresh(sender)
                grant, began = sender.grant, time.time()
                try:
                    return once(sender, name, data)
                except Failed as failure:
                    if failure.exit != 4:
                        raise
                    tries += began < grant.expires  # by our clock it was good when we began
                    if tries == TRIES:
                        raise Failed("grants are too short for it: %s" % failure, 4) from None
                    self.park(sender, grant, failure)

        Sender.post = post

    def park(self, sender, grant, failure):
        """Wait for a newer grant than that which failed. Raise Failed once there can be none."""
        self.look = min(self.look, time.time() + self.pause)  # whatever our clock says
        while True:
            self.renew(True)
            if self.grant != grant:
                return
            if self.over:
                raise Failed("the grant has expired; %s" % self.over, self.over.exit, True)
            if time.time() > self.until:
                text = "%s; no renewed grant came until %s. %s" % (failure, timestamp(self.until), self.trouble)
                raise Failed(text.rstrip(". "), 4, True)
            sender.pace(0)  # raises when the push is over
            time.sleep(min(1, self.pause))  # no event tells of an object in a bucket

    def renew(self, parked):
        """Look for a renewed grant if it is time to. Who isn't parked doesn't wait for a thread that looks already."""
        if self.lock.acquire(parked):
            try:
                with open(self.path + ".lock", "a") as shared:
                    fcntl.flock(shared, fcntl.LOCK_EX)
                    if time.time() > self.look:
                        self.read()
                    if time.time() > self.look:
                        self.look = time.time() + self.pause
                        while self.step():
                            shared.truncate(0)
                        if parked and time.time() > self.grant.expires and not os.fstat(shared.fileno()).st_size:
                            shared.write("-")
                            self.say("the grant has expired; uploads wait for a renewed one")
            finally:
                self.lock.release()

    def step(self):
        """Ask the source once. Return whether there is something new."""
        old = self.grant
        try:
            new = self.source(old)
            if new and places(new) != places(old):
                raise GrantError("it is for something else")
        except (Failed, GrantError) as failure:
            text = str(failure)
            if isinstance(failure, GrantError):
                text = "a renewed grant is refused: " + text
            elif failure.fatal:
                self.over, self.look = failure, 1e99
            if text != self.trouble:
                self.trouble = text
                self.say(text)
            return False
        self.trouble = ""
        if new:
            # An older one still tells where the next will be.
            new = new if new.expires > old.expires else old._replace(mailbox=new.mailbox)
            rewrite(new._replace(inputs=old.inputs, agent=old.agent), self.path)
            self.read()
        return new


def places(grant):
    """What stays as it is when a grant is renewed."""
    mailbox = (grant.mailbox or {}).get("url", "").find(grant.outputs.url)
    return grant[:3] + grant.outputs[:2] + grant.status[:2] + (mailbox,)


def mail(grant):
    """The source that is the grant's mailbox."""
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
    if failure.exit != 5:  # 404; or 403, from a store that doesn't tell those who may not list
        raise failure


def keep(grant, path):
    """Have the grant at `path` renewed while this process lives. Return it, as it is for whoever asks how long."""
    until = instant(grant.mailbox["until"])
    Renewal(path, mail, until, say).install()
    return grant._replace(expires=until)


def tell():
    """Let `agent run` say which outputs have failed once its grant has ended: its last event can't."""
    from agent.push import Pusher

    once = Pusher.result

    def result(pusher, items):
        done = once(pusher, items)
        for pair in done.failed if done.exit_code == 4 else ():
            say("%s: %s" % pair)
        return done

    Pusher.result = result
