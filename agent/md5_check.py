"""The check of an upload by the ETag of the reply: of PUTs, and of forms whose policy allows no checksum field."""

from agent.errors import ExitCode, TransferError


def check_etag(md5, headers):
    """Return the ETag, and how the object is verified: "etag", or "sent" where the ETag is no MD5.

    `md5` is the hash of what was sent. An ETag is the MD5 only of an object without SSE-KMS or SSE-C (AWS, "Object":
    ETag). Raise TransferError if it is another MD5.
    """
    etag = headers.get(b"etag", b"").decode().strip('"')
    if etag == md5.hexdigest():
        return etag, "etag"
    if len(etag) == 32 and b"x-amz-server-side-encryption" not in headers:
        raise TransferError("the store's ETag is not the MD5 of what was sent", ExitCode.DAMAGED)
    return etag, "sent"
