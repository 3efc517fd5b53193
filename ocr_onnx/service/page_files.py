"""The browser's page: files of one folder go out, with headers that keep everything else away."""

from pathlib import Path
from typing import Final

from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, Response

CONTENT_SECURITY_POLICY: Final = "; ".join(
    (
        *("default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self' blob: data:"),
        *("connect-src 'self'", "base-uri 'none'", "form-action 'self'", "frame-ancestors 'none'"),
    )
)
_KINDS: Final = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
}
_HEADERS: Final = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class PageFiles:
    """The files that lie in `folder`, and nothing else."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def index(self) -> Response:
        """Serve the page itself."""
        return self._file("index.html")

    async def static(self, name: str) -> Response:
        """Serve one of its other files."""
        return self._file(name)

    def _file(self, name: str) -> Response:
        # Looked up among the folder's own names, so that no name leads anywhere else.
        names = {path.name: path for path in self._folder.glob("*") if path.is_file()}
        kind = _KINDS.get(Path(name).suffix)
        if name not in names or kind is None:
            raise HTTPException(404)
        return FileResponse(names[name], media_type=kind, headers=_HEADERS)
