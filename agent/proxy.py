"""TLS through the proxy that HTTPS_PROXY names, unless NO_PROXY excepts the host."""

import re
from base64 import b64encode
from http.client import HTTPSConnection
from urllib.request import getproxies, proxy_bypass


def tunnel(host, port, timeout):
    """Return an unconnected HTTPSConnection to `host`; `timeout` in seconds."""
    proxy = not proxy_bypass(host) and getproxies().get("https")
    if not proxy:
        return HTTPSConnection(host, port, timeout=timeout)
    login, name, at = re.match(r"(?:\w+://)?(?:(.*)@)?([^/:]+):?(\d*)", proxy).groups()
    link = HTTPSConnection(name, int(at or 80), timeout=timeout)
    login = login and {"Proxy-Authorization": "Basic " + b64encode(login.encode()).decode()}
    link.set_tunnel(host, port, login)
    return link
