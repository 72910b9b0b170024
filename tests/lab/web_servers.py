"""nginx on loopback, with one folder as its whole world.

with nginx(tmp_path, identity, protocols="TLSv1.2 TLSv1.3") as web:
    ...  # web.http, web.https: ports
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.lab.tls_servers import Identity

START_SECONDS = 10

PAGE = "<!doctype html><html><head><title>The shop &amp; more</title></head><body>Add to cart</body></html>"

_LOCATIONS = """
    location = / {{ return 200 '{page}'; }}
    location = /missing {{ return 404 'nothing here'; }}
    location = /broken {{ return 500 'oops'; }}
    location = /login {{ add_header WWW-Authenticate 'Basic realm="x"' always; return 401 'who are you?'; }}
    location = /moved {{ return 301 /; }}
    location = /here {{ return 302 /there; }}
    location = /there {{ return 307 /moved; }}
    location = /circle {{ return 302 /circle2; }}
    location = /circle2 {{ return 302 /circle; }}
    location = /chain {{ return 302 /chain?n=1; }}
    location = /headers {{ add_header X-Frame-Options DENY; add_header Set-Cookie 'session=verysecret'; return 200 'ok'; }}
    location = /agent {{ return 200 '$http_user_agent|$http_x_probe|$host|$request_method|$server_protocol'; }}
    location / {{ root {root}; }}
"""


@dataclass
class Web:
    """An nginx that runs."""

    http: int
    https: int
    root: Path


@contextlib.contextmanager
def nginx(folder: Path, identity: Identity, *, protocols: str = "TLSv1.2 TLSv1.3", http2: bool = True) -> Iterator[Web]:
    """Run nginx with pages that answer, redirect and fail."""
    certificate, key = identity.write(folder, "nginx")
    root = folder / "root"
    root.mkdir(exist_ok=True)
    ports = _free_ports(2)
    locations = _LOCATIONS.format(page=PAGE.replace("'", "\\'"), root=root)
    (folder / "nginx.conf").write_text(
        f"""
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log off; default_type text/html;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  server {{ listen 127.0.0.1:{ports[0]}; {locations} location = /secure {{ return 301 https://localhost:{ports[1]}/; }} }}
  server {{
    listen 127.0.0.1:{ports[1]} ssl{" http2" if http2 else ""};
    ssl_certificate {certificate}; ssl_certificate_key {key}; ssl_protocols {protocols};
    {locations} location = /plain {{ return 302 http://127.0.0.1:{ports[0]}/agent; }}
  }}
}}
"""
    )
    process = subprocess.Popen(
        ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin"},
    )
    try:
        until = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", ports[1]), 1):
                break
            if process.poll() is not None or time.monotonic() > until:
                process.kill()
                assert process.stderr is not None
                raise RuntimeError(f"nginx did not start: {process.stderr.read().decode()}")
            time.sleep(0.02)
        yield Web(*ports, root)
    finally:
        process.kill()
        process.wait(10)
        if process.stderr is not None:
            process.stderr.close()


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]
