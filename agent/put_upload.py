"""Uploads to a store that takes no forms: by presigned PUTs, one for each object that the grant names.

In the targets of such a grant `policy` is what the agent itself keeps to, and `fields` holds no form's fields but::

    {"query": "X-Amz-Algorithm=…&…&X-Amz-SignedHeaders=host",    what the query of each URL begins with
     "slots": {"a.csv": SIGNATURE, …},                           a PUT of that name, below the prefix
     "split": bytes                                              from which on the pusher would cut files up: never
     "large": {"b.bin": {"upload": UploadId, "part": bytes, "parts": [SIGNATURE of each part's PUT, …],
                         "list": SIGNATURE, "complete": SIGNATURE, "head": SIGNATURE}},
     "abort": {"KEY": [UploadId, SIGNATURE]}}                    with the last event: of what was not completed

A file of more than `part` bytes goes up in parts, several at once; those that the store has already are not sent again.
The log has a few slots only, and each is written anew until it is full. The last of them keeps the end of the log, and
says how much is left out before it. What it holds so far lies in the file ``log.slot`` beside the grant.
"""

import json
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hashlib import md5, sha256
from urllib.parse import quote

from agent.grant import base64
from agent.http import STALL, Changed, Failed, Sender, Wire, blocks, insist, refusal

FULL = 1 << 20  # bytes of log in a slot
FINAL = ("succeeded", "failed", "interrupted")
THREADS = 3  # parts of one file at once
PATIENT = 600  # seconds that a store may take to put parts together
LEFT_OUT = "[freepost: %d bytes of the log are left out here: the grant has %d slots for it]\n"


class Slots(Sender):
    """Stores objects in the slots of a target, in the words of a Sender."""

    def __init__(self, target, expires=0, **more):
        Wire.__init__(self, target.url, **more)
        self.target, self.expires, self.fields, self.failed = target, expires, target.fields, None

    def post(self, name, data):
        """Store one object below the prefix in one attempt: bytes, or (file descriptor, offset, size).

        Return {"size", "sha256", "verified"}. Raise Failed; Changed when the file has fewer bytes.
        """
        if name in FINAL:
            for key, (upload, signature) in self.fields.get("abort", {}).items():
                with suppress(Failed):  # it was completed, or there is nothing to be done about it
                    self.good(self.call("DELETE", key, signature, "&uploadId=" + quote(upload, "~")))
        slots = self.fields["slots"]
        if name.startswith("log/") and "log/000001" in slots:
            return self.log(int(name[4:]), data)
        if name not in slots:
            raise Failed("the grant has no slot for this name; a store without forms takes only what it names", 5)
        size = data[2] if isinstance(data, tuple) else len(data)
        large, (_, most) = self.fields.get("large", {}).get(name), self.target.size_range()
        if large and size > large["part"]:
            return self.parts(name, data[0], size, large)
        if size > most:
            raise Failed("it has %d bytes and its PUT takes %d: give it a max_size in job.yaml" % (size, most), 5)
        return self.whole(name, data, size)

    def whole(self, name, data, size):
        """Store an object by one PUT."""
        sums = sha256(), md5()  # noqa: S324 - S3's choice
        for block in blocks(*data) if isinstance(data, tuple) else [data]:
            for each in sums:
                each.update(block)
        if not isinstance(data, tuple):
            self.pace(size)
        etag = self.put(self.target.prefix + name, self.fields["slots"][name], "", data, sums[1])
        verified = "etag" if etag == sums[1].hexdigest() else "sent"
        return {"size": size, "sha256": sums[0].hexdigest(), "verified": verified}

    def put(self, key, signature, query, data, digest):
        """PUT what has this MD5, which the store checks. Return the ETag."""
        answer = self.call("PUT", key, signature, query, data, "Content-MD5: %s\r\n" % base64(digest.digest()))
        etag = self.good(answer).get(b"etag", b"").decode().strip('"')
        if len(etag) == 32 and etag != digest.hexdigest() and b"x-amz-server-side-encryption" not in answer[1]:
            raise Failed("the store's ETag is not the MD5 of what was sent", 8)
        return etag

    def call(self, method, key, signature, query="", data=b"", head="", take=None, patience=0):  # noqa: PLR0913, PLR0917
        """Send one presigned request. Return the reply."""
        query = "?" + self.fields["query"] + query + "&X-Amz-Signature=" + signature
        self.aim(self.target.url + quote(key, "/~") + query)
        size = data[2] if isinstance(data, tuple) else len(data)
        head = "%s%sContent-Length: %d\r\n%s\r\n" % (method, self.head, size, head)
        if self.stall != (patience or STALL):
            self.close()
            self.stall = patience or STALL
        return self.ask(head.encode(), data, take=take)

    def good(self, answer):
        """Return a reply's headers. Raise Failed unless it is a success."""
        status, headers, body = answer
        if not 200 <= status < 300 or b"<Error>" in body:
            late = 0 < self.expires <= time.time()
            failure = refusal(status, headers, body, late)
            if late and status == 400:  # rclone's word for it
                failure = Failed("the grant has expired; " + str(failure), 4, True)
            raise failure
        return headers

    def parts(self, name, fd, size, large):
        """Store a large file in parts: those that are missing, then the whole."""
        self.failed = None
        key, sha, sums, jobs = self.target.prefix + name, sha256(), [], {}
        step, before, upload = large["part"], os.fstat(fd), "&uploadId=" + quote(large["upload"], "~")
        if size > step * len(large["parts"]):
            raise Failed("it has %d bytes; its max_size allows %d" % (size, step * len(large["parts"])), 5)
        etags = insist(lambda: self.list(key, large["list"], upload))
        with ThreadPoolExecutor(THREADS) as pool:
            for number, at in enumerate(range(0, size, step), 1):
                tag, length = md5(), min(step, size - at)  # noqa: S324 - S3's choice
                for block in blocks(fd, at, length):
                    sha.update(block)
                    tag.update(block)
                sums.append(tag)
                if etags is not None and etags.get(number) != tag.hexdigest():
                    query = "&partNumber=%d%s" % (number, upload)
                    piece = fd, at, length
                    jobs[number] = pool.submit(self.part, key, large["parts"][number - 1], query, piece, tag)
        for number, job in jobs.items():
            etags[number] = job.result()
        now = os.fstat(fd)
        if (now.st_size, now.st_mtime_ns, now.st_ctime_ns) != (before.st_size, before.st_mtime_ns, before.st_ctime_ns):
            raise Changed
        whole = "%s-%d" % (md5(b"".join(each.digest() for each in sums)).hexdigest(), len(sums))  # noqa: S324
        if etags is None or not insist(lambda: self.complete(key, large["complete"], upload, etags, len(sums))):
            # Completed before, by a request whose answer was lost; or given up by somebody.
            answer = self.call("HEAD", key, large["head"], head="Connection: close\r\n", take=lambda *_: None)
            etag = answer[1].get(b"etag", b"").decode().strip('"')
            if "-" not in etag:  # rclone's is of the whole, not of its parts
                tag = md5()  # noqa: S324 - S3's choice
                for block in blocks(fd, 0, size):
                    tag.update(block)
                whole = tag.hexdigest()
            if etag != whole:
                raise Failed("its upload in parts has ended, so that only a new attempt can store it", 5)
        return {"size": size, "sha256": sha.hexdigest(), "verified": "etag"}

    def part(self, key, signature, query, piece, digest):
        """Store one part, over a connection of its own. Return its ETag."""
        sender = Slots(self.target, self.expires, pace=self.pace)
        try:
            if self.failed:
                raise self.failed
            return insist(lambda: sender.put(key, signature, query, piece, digest))
        except Failed as failure:
            failure.fatal = failure.fatal or failure.exit == 7  # it was tried often enough
            self.failed = failure
            raise
        finally:
            sender.close()

    def list(self, key, signature, upload):
        """Return the ETag of each part that the store has (of the first 1,000), None when the upload has ended."""
        answer = self.call("GET", key, signature, upload)
        if answer[0] == 404:
            return None
        self.good(answer)
        found = {}
        for part in re.findall("<Part>.*?</Part>", answer[2].decode(), re.DOTALL):
            number, etag = (re.search('<%s>(?:&#34;|&quot;|")?([^<&"]+)' % tag, part) for tag in ("PartNumber", "ETag"))
            found[int(number.group(1))] = etag.group(1)
        return found

    def complete(self, key, signature, upload, etags, count):
        """Put the parts together. Return whether the store knew of the upload."""
        line = '<Part><PartNumber>%d</PartNumber><ETag>"%s"</ETag></Part>'
        body = "".join(line % (number, etags[number]) for number in range(1, count + 1))
        body = "<CompleteMultipartUpload>%s</CompleteMultipartUpload>" % body
        answer = self.call("POST", key, signature, upload, body.encode(), patience=PATIENT)
        if answer[0] != 404:
            self.good(answer)
        return answer[0] != 404

    def log(self, number, data):
        """Store a segment of the log: in the last slot begun while there is room, then in the next."""
        state, content = {"slot": 1, "number": 0, "left": 0}, b""
        with suppress(FileNotFoundError), open("log.slot", "rb") as file:
            state, content = json.loads(file.readline().decode()), file.read()
        if number > state["number"]:  # otherwise the VM went down before it could note that this one is stored
            count, over = sum(name.startswith("log/") for name in self.fields["slots"]), len(content) + len(data) - FULL
            if over > 0 and state["slot"] < count:
                state["slot"], content = state["slot"] + 1, b""
            elif over > 0:
                state["left"], content = state["left"] + over, content[over:]
            content += data
            note = (LEFT_OUT % (state["left"], count)).encode() if state["left"] else b""
            whole = note + content
            self.whole("log/%06d" % state["slot"], whole, len(whole))
            state["number"] = number
            with open("log.slot.new", "wb") as file:
                file.write(json.dumps(state).encode() + b"\n" + content)
            os.rename("log.slot.new", "log.slot")
        return {"size": len(data), "sha256": sha256(data).hexdigest(), "verified": "sent"}
