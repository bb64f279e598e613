"""Uploads by POST form: its fields first and the file last, with an exact Content-Length."""

import os
import time
from hashlib import md5, sha256

from agent.errors import error_from_reply
from agent.grant import base64
from agent.http import FileSlice, HttpConnection, blocks

BOUNDARY = os.urandom(16).hex()
FIELD = "--" + BOUNDARY + '\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
FILE = (FIELD % ('file"; filename="f', ""))[:-2].encode()
TAIL = ("\r\n--" + BOUNDARY + "--\r\n").encode()


class FormUploader(HttpConnection):
    """Stores objects by one target's policy. `expires` is the grant's, in seconds since 1970."""

    def __init__(self, target, expires=0, **more):
        HttpConnection.__init__(self, target.url, **more)
        self.use(target, expires)

    def use(self, target, expires):
        """Post by this policy from now on: the same prefix's, of a grant that was renewed."""
        self.prefix, self.expires, self.sums = target.prefix, expires, target.covers("x-amz-checksum-sha256")
        self.fixed = b"".join((FIELD % pair).encode() for pair in target.form().items())

    def post(self, name, data):
        """Store one object below the prefix in one attempt: bytes, or a FileSlice.

        Return {"size", "sha256", "verified"}. Raise TransferError; FileChanged when the file has fewer bytes.
        """
        size, in_memory = len(data), not isinstance(data, FileSlice)
        if in_memory:
            self.throttle(size)
        fixed, expires = self.fixed, self.expires  # a grant renewed while this is sent counts from the next object on
        sha, tag = sha256(), None if self.sums else md5()
        for block in blocks(data):
            sha.update(block)
            tag and tag.update(block)
        form = FIELD % ("key", self.prefix + name)
        if self.sums:
            form += FIELD % ("x-amz-checksum-sha256", base64(sha.digest()))
        form = fixed + form.encode() + FILE
        head = "POST%sContent-Type: multipart/form-data; boundary=%s\r\nContent-Length: %d\r\n\r\n"
        form = (head % (self.head, BOUNDARY, len(form) + size + len(TAIL))).encode() + form
        small = size < 1 << 16 and in_memory
        status, headers, body = self.request(form + data + TAIL) if small else self.request(form, data, TAIL)
        if not 200 <= status < 300 or b"<Error>" in body:
            raise error_from_reply(status, headers, body, time.time() >= expires > 0)
        verified = "sha256"
        if tag:
            from agent.md5_check import check_etag  # not needed, and so loaded, by most

            verified = check_etag(tag, headers)[1]
        return {"size": size, "sha256": sha.hexdigest(), "verified": verified}
