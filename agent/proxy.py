"""TLS through the proxy that HTTPS_PROXY names, unless NO_PROXY excepts the host."""

import re
import socket
from base64 import b64encode
from http.client import HTTPConnection
from urllib.request import getproxies, proxy_bypass


def tunnel(host, port, timeout):
    """Return a socket that reaches `host`, for TLS to be spoken over it; `timeout` in seconds. Raise OSError."""
    proxy = not proxy_bypass(host) and getproxies().get("https")
    if not proxy:
        return socket.create_connection((host, port), timeout)
    login, name, at = re.match(r"(?:\w+://)?(?:(.*)@)?([^/:]+):?(\d*)", proxy).groups()
    link = HTTPConnection(name, int(at or 80), timeout=timeout)
    link.set_tunnel(host, port, login and {"Proxy-Authorization": "Basic " + b64encode(login.encode()).decode()})
    link.connect()
    return link.sock
