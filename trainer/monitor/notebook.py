"""A view that is redrawn in the output of a notebook's cell; rich's own needs ipywidgets there."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

from rich.console import Console, RenderableType

WIDTH = 100
_REFRESH_SECONDS = 0.5
"""Every drawing is a message to the browser."""
_PAGE = '<pre style="line-height:normal;font-family:Menlo,Consolas,monospace">{code}</pre>'


class NotebookView:
    """What `rich.live.Live` is on a terminal.

    Args:
        view: what to draw, as it is now.
    """

    def __init__(self, view: Callable[[], RenderableType]) -> None:
        self._view = view
        self._handle: Any = None
        self._drawn = 0.0

    def start(self, refresh: bool = False) -> None:
        display: Any = import_module("IPython.display").display  # it is there, as this is a notebook
        self._handle = display(self._drawing(), raw=True, display_id=True)

    def refresh(self) -> None:
        if time.monotonic() - self._drawn >= _REFRESH_SECONDS:
            self._handle.update(self._drawing(), raw=True)

    def stop(self) -> None:
        """Draw the end."""
        self._handle.update(self._drawing(), raw=True)

    def _drawing(self) -> dict[str, str]:
        self._drawn = time.monotonic()
        console = Console(
            file=io.StringIO(), record=True, width=WIDTH, force_terminal=True, force_jupyter=False
        )
        console.print(self._view())
        html = console.export_html(inline_styles=True, code_format=_PAGE, clear=False)
        return {"text/html": html, "text/plain": console.export_text()}
