"""The check of an upload where the policy allows no checksum field: the ETag of the reply, if it is an MD5."""

import hashlib

from agent.errors import ExitCode, TransferError


class Md5Check:
    """The MD5 of what is sent, to compare with the ETag of the reply.

    An ETag is the MD5 only of an object without SSE-KMS or SSE-C (AWS, "Object": ETag).
    """

    def __init__(self):
        self.md5 = hashlib.md5()
        self.update = self.md5.update

    def compare(self, headers):
        """Return how the object is verified: "etag", or "sent" where the ETag is no MD5.

        Raise TransferError if it is another MD5.
        """
        etag = headers.get(b"etag", b"").decode().strip('"')
        if etag == self.md5.hexdigest():
            return "etag"
        if len(etag) == 32 and b"x-amz-server-side-encryption" not in headers:
            raise TransferError("the store's ETag is not the MD5 of what was sent", ExitCode.DAMAGED)
        return "sent"
