"""TLS by the system's CAs, through the proxy that HTTPS_PROXY names, unless NO_PROXY excepts the host."""

import os
import re
import socket
import ssl

context = None  # one for all connections, made when it is needed


def connect(host, port, timeout):
    """Return a socket over which TLS is spoken with `host`; `timeout` in seconds. Raise OSError."""
    global context  # noqa: PLW0603 - made once for all connections: it reads every CA
    context = context or ssl.create_default_context()
    if os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
        sock = tunnel(host, port, timeout)
    else:
        sock = socket.create_connection((host.encode(), port), timeout)  # text would take encodings.idna
    return context.wrap_socket(sock, server_hostname=host)  # which closes it, should there be no TLS


def tunnel(host, port, timeout):
    """Return a socket that reaches `host`, for TLS to be spoken over it; `timeout` in seconds. Raise OSError."""
    from base64 import b64encode  # these take longer to load than a small upload takes
    from http.client import HTTPConnection
    from urllib.request import getproxies, proxy_bypass

    proxy = not proxy_bypass(host) and getproxies().get("https")
    if not proxy:
        return socket.create_connection((host, port), timeout)
    login, name, at = re.match(r"(?:\w+://)?(?:(.*)@)?([^/:]+):?(\d*)", proxy).groups()
    link = HTTPConnection(name, int(at or 80), timeout=timeout)
    link.set_tunnel(host, port, login and {"Proxy-Authorization": "Basic " + b64encode(login.encode()).decode()})
    link.connect()
    return link.sock
