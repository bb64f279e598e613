"""Chooses the uploader for a target: by POST form, or by presigned PUTs."""

from agent.form_upload import FormUploader
from agent.retry import with_retries


def new_uploader(target, expires=0, **more):
    """Return an uploader: `post(name, data)` stores one object in one attempt, `close()` hangs up.

    `expires` is the grant's, in seconds since 1970; `more` may have `throttle` (see HttpConnection).
    """
    if "slots" in target.fields:
        from agent.put_upload import PutUploader  # only in VMs whose store takes no forms

        return PutUploader(target, expires, **more)
    return FormUploader(target, expires, **more)


def send(target, name, data, expires=0, until=0, make=new_uploader):
    """Store bytes as `name` below the target's prefix, with retries until `until` (seconds since 1970; 0: no limit).

    `make` returns the uploader, as `new_uploader` does. Return what its `post` returns. Raise TransferError.
    """
    uploader = make(target, expires)
    try:
        return with_retries(lambda: uploader.post(name, data), until)
    finally:
        uploader.close()
