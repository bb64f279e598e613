"""Uploads to a store that takes no forms: by presigned PUTs, one for each object that the grant names.

In the targets of such a grant `policy` is what the agent itself keeps to, and `fields` holds no form's fields but::

    {"query": "X-Amz-Algorithm=…&…&X-Amz-SignedHeaders=host",    what the query of each URL begins with
     "slots": {"a.csv": SIGNATURE, …},                           a PUT of that name, below the prefix
     "split": bytes                                              larger than any file, so that a Pusher never splits one
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
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hashlib import md5, sha256
from urllib.parse import quote

from agent.errors import ExitCode, FileChanged, TransferError, error_from_reply
from agent.files import content_version
from agent.grant import base64
from agent.grantfile import replace
from agent.http import STALL, FileSlice, HttpConnection, blocks
from agent.layout import FINAL_EVENTS, LOG_FOLDER, LOG_SEGMENT, LOG_SLOT
from agent.md5_check import check_etag
from agent.retry import with_retries

FULL = 1 << 20  # bytes of log in a slot
THREADS = 3  # parts of one file at once
PATIENT = 600  # seconds that a store may take to put parts together
LEFT_OUT = "[freepost: %d bytes of the log are left out here: the grant has %d slots for it]\n"

# A request of an object: its key, the signature of it, and what the query has besides.
Presigned = namedtuple("Presigned", "key signature query")


class PutUploader(HttpConnection):
    """Stores objects in the slots of a target, with the methods of a FormUploader."""

    def __init__(self, target, expires=0, **more):
        HttpConnection.__init__(self, target.url, **more)
        self.failed = None
        self.use(target, expires)

    def use(self, target, expires):
        """Store by these slots from now on: the same prefix's, of a grant that was renewed."""
        self.target, self.expires, self.fields = target, expires, target.fields

    def post(self, name, data):
        """Store one object below the prefix in one attempt: bytes, or a FileSlice.

        Return {"size", "sha256", "verified"}. Raise TransferError; FileChanged when the file has fewer bytes.
        """
        if name in FINAL_EVENTS:
            for key, (upload, signature) in self.fields.get("abort", {}).items():
                with suppress(TransferError):  # it was completed, or there is nothing to be done about it
                    self.check_reply(
                        self.request_presigned("DELETE", Presigned(key, signature, "&uploadId=" + quote(upload, "~")))
                    )
        slots = self.fields["slots"]
        if name.startswith(LOG_FOLDER) and LOG_SEGMENT % 1 in slots:
            return self.put_log(int(name[4:]), data)
        if name not in slots:
            raise TransferError("the grant has no slot for this name, only for those it lists", ExitCode.REFUSED)
        size = len(data)
        large, (_, most) = self.fields.get("large", {}).get(name), self.target.size_range()
        if large and size > large["part"]:
            return self.put_parts(name, data.fd, size, large)
        if size > most:
            raise TransferError(
                "it has %d bytes and its PUT takes %d: give it a max_size in job.yaml" % (size, most), ExitCode.REFUSED
            )
        return self.put_whole(name, data, size)

    def put_whole(self, name, data, size):
        """Store an object by one PUT."""
        sums = sha256(), md5()
        for block in blocks(data):
            for each in sums:
                each.update(block)
        if not isinstance(data, FileSlice):
            self.throttle(size)
        _, verified = self.put(self.target.prefix + name, self.fields["slots"][name], "", data, sums[1])
        return {"size": size, "sha256": sums[0].hexdigest(), "verified": verified}

    def put(self, key, signature, query, data, digest):
        """PUT what has this MD5, which the store checks. Return the ETag, and how the object is verified."""
        answer = self.request_presigned(
            "PUT", Presigned(key, signature, query), data, "Content-MD5: %s\r\n" % base64(digest.digest())
        )
        return check_etag(digest, self.check_reply(answer))

    def request_presigned(self, method, presigned, data=b"", head="", take=None, patience=0):
        """Send one Presigned request, which the store may take `patience` seconds to answer. Return the reply."""
        query = "?" + self.fields["query"] + presigned.query + "&X-Amz-Signature=" + presigned.signature
        self.set_url(self.target.url + quote(presigned.key, "/~") + query)
        head = "%s%sContent-Length: %d\r\n%s\r\n" % (method, self.head, len(data), head)
        if self.stall != (patience or STALL):
            self.close()
            self.stall = patience or STALL
        return self.request(head.encode(), data, take=take)

    def check_reply(self, answer):
        """Return a reply's headers. Raise TransferError unless it is a success."""
        status, headers, body = answer
        if not 200 <= status < 300 or b"<Error>" in body:
            late = 0 < self.expires <= time.time()
            failure = error_from_reply(status, headers, body, late)
            if late and status == 400:  # rclone's word for it
                failure = TransferError("the grant has expired; " + str(failure), ExitCode.EXPIRED, True)
            raise failure
        return headers

    def put_parts(self, name, fd, size, large):
        """Store a large file in parts: those that are missing, then the whole."""
        self.failed = None
        key, sha, sums, jobs = self.target.prefix + name, sha256(), [], {}
        step, before, upload = large["part"], content_version(os.fstat(fd)), "&uploadId=" + quote(large["upload"], "~")
        if size > step * len(large["parts"]):
            raise TransferError(
                "it has %d bytes; its max_size allows %d" % (size, step * len(large["parts"])), ExitCode.REFUSED
            )
        etags = with_retries(lambda: self.list_parts(key, large["list"], upload))
        with ThreadPoolExecutor(THREADS) as pool:
            for number, at in enumerate(range(0, size, step), 1):
                tag, piece = md5(), FileSlice(fd, at, min(step, size - at))
                for block in blocks(piece):
                    sha.update(block)
                    tag.update(block)
                sums.append(tag)
                if etags is not None and etags.get(number) != tag.hexdigest():
                    query = "&partNumber=%d%s" % (number, upload)
                    jobs[number] = pool.submit(self.put_part, key, large["parts"][number - 1], query, piece, tag)
        for number, job in jobs.items():
            etags[number] = job.result()
        if content_version(os.fstat(fd)) != before:
            raise FileChanged
        if etags is None or not with_retries(lambda: self.complete(key, large["complete"], upload, etags, len(sums))):
            self.require_completed(key, large["head"], FileSlice(fd, 0, size), sums)
        return {"size": size, "sha256": sha.hexdigest(), "verified": "etag"}

    def require_completed(self, key, signature, data, sums):
        """Raise TransferError unless the store has a file whose upload in parts has ended; `sums` are its parts' MD5s.

        It has if a request whose answer was lost has completed the upload, and has not if somebody gave it up.
        """
        answer = self.request_presigned(
            "HEAD", Presigned(key, signature, ""), head="Connection: close\r\n", take=lambda *_: None
        )
        etag = answer[1].get(b"etag", b"").decode().strip('"')
        whole = "%s-%d" % (md5(b"".join(each.digest() for each in sums)).hexdigest(), len(sums))
        if "-" not in etag:  # rclone's is of the whole, not of its parts
            tag = md5()
            for block in blocks(data):
                tag.update(block)
            whole = tag.hexdigest()
        if etag != whole:
            raise TransferError("its upload in parts has ended; only a new attempt can store it", ExitCode.REFUSED)

    def put_part(self, key, signature, query, piece, digest):
        """Store one part, over a connection of its own. Return its ETag."""
        sender = PutUploader(self.target, self.expires, throttle=self.throttle)
        try:
            if self.failed:
                raise self.failed
            return with_retries(lambda: sender.put(key, signature, query, piece, digest))[0]
        except TransferError as failure:
            failure.permanent = failure.permanent or failure.exit == ExitCode.UNREACHABLE  # it was tried often enough
            self.failed = failure
            raise
        finally:
            sender.close()

    def list_parts(self, key, signature, upload):
        """Return the ETag of each part that the store has (of the first 1,000), None when the upload has ended."""
        answer = self.request_presigned("GET", Presigned(key, signature, upload))
        if answer[0] == 404:
            return None
        self.check_reply(answer)
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
        answer = self.request_presigned("POST", Presigned(key, signature, upload), body.encode(), patience=PATIENT)
        if answer[0] != 404:
            self.check_reply(answer)
        return answer[0] != 404

    def put_log(self, number, data):
        """Store a segment of the log: in the last slot begun while there is room, then in the next."""
        state, content = {"slot": 1, "number": 0, "left": 0}, b""
        with suppress(FileNotFoundError), open(LOG_SLOT, "rb") as file:
            state, content = json.loads(file.readline().decode()), file.read()
        if number > state["number"]:  # otherwise the VM went down before it could note that this one is stored
            count = sum(name.startswith(LOG_FOLDER) for name in self.fields["slots"])
            over = len(content) + len(data) - FULL
            if over > 0 and state["slot"] < count:
                state["slot"], content = state["slot"] + 1, b""
            elif over > 0:
                state["left"], content = state["left"] + over, content[over:]
            content += data
            note = (LEFT_OUT % (state["left"], count)).encode() if state["left"] else b""
            whole = note + content
            self.put_whole(LOG_SEGMENT % state["slot"], whole, len(whole))
            state["number"] = number
            replace(LOG_SLOT, json.dumps(state).encode() + b"\n" + content)
        return {"size": len(data), "sha256": sha256(data).hexdigest(), "verified": "sent"}
