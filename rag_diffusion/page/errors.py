"""What the page's handlers raise, told to the visitor in words."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator
from functools import wraps
from html import escape
from typing import Any

import gradio as gr

from rag_diffusion.errors import RagDiffusionError

_LOG = logging.getLogger("uvicorn.error")


def in_words(handler: Callable[..., Any]) -> Callable[..., Any]:
    """The `handler`, with errors told in words; what nobody foresaw goes to the log."""
    if inspect.isgeneratorfunction(handler):

        @wraps(handler)
        def streamed(*given: Any) -> Iterator[Any]:
            try:
                yield from handler(*given)
            except Exception as error:
                raise _told(error) from None

        return streamed

    @wraps(handler)
    def called(*given: Any) -> Any:
        try:
            return handler(*given)
        except Exception as error:
            raise _told(error) from None

    return called


def _told(error: Exception) -> gr.Error:
    if isinstance(error, gr.Error):
        return error
    if isinstance(error, RagDiffusionError | ValueError):
        return gr.Error(escape(str(error)), duration=30, print_exception=False, title="That cannot be done")
    _LOG.error("page: %s: %s", type(error).__name__, error)
    return gr.Error("something unexpected happened; the server's log has it", print_exception=False)
