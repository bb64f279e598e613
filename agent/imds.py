"""What a cloud tells its VM: AWS's metadata service, version 2 ("Use the Instance Metadata Service")."""

from http.client import HTTPConnection, HTTPException

from agent.layout import METADATA_IPV4

HOST = METADATA_IPV4
TIMEOUT = 5  # seconds


def get_metadata(path, host=None):
    """Return what the metadata service has at `path`, None where it has nothing. Raise OSError."""
    token = request(host or HOST, "PUT", "api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"})
    return token and request(host or HOST, "GET", "meta-data/" + path, {"X-aws-ec2-metadata-token": token})


def request(host, method, path, headers):
    """Make one request."""
    link = HTTPConnection(host, timeout=TIMEOUT)
    try:
        link.request(method, "/latest/" + path, headers=headers)
        reply = link.getresponse()
        body = reply.read(9999).decode("ascii", "replace")
    except HTTPException:
        raise OSError(0, "what answers is no metadata service") from None
    finally:
        link.close()
    if reply.status not in (200, 404):
        raise OSError(0, "the metadata service answered %d" % reply.status)
    return body if reply.status == 200 else None
