"""Keep the pages of the embedded Prefect server from talking to anybody but that server.

Prefect 3.8's newer UI asks its maker's analytics service (Amplitude) for settings from the operator's browser, also where analytics
are off (`PREFECT_SERVER_ANALYTICS_ENABLED=false`). A content security policy in the pages stops that; it can go when Prefect asks the
setting first.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = "ui"
"""Below PREFECT_HOME: where the server puts its copy of the pages, instead of into the installed package."""
_SERVER = " ".join(f"{scheme}://{host}:*" for scheme in ("http", "ws") for host in ("127.0.0.1", "localhost"))
# Behind a reverse proxy 'self' is the proxy; blob: and data: never leave the browser.
_POLICY = f'<meta http-equiv="Content-Security-Policy" content="connect-src \'self\' blob: data: {_SERVER}">'


def keep_to_itself(folder: Path) -> None:
    """Put the policy into the pages the server has copied to `folder`; pages that have it stay as they are."""
    for page in folder.glob("*/index.html"):
        text = page.read_text()
        if _POLICY not in text:
            draft = page.with_name(".index.html")
            draft.write_text(text.replace("<head>", f"<head>{_POLICY}", 1))
            draft.replace(page)
