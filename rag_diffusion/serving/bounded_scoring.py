"""MLflow's scoring server with bounds: what is too long is not parsed, and no answer tells a stack trace.

The server parses a body of any length and depth, and answers what fails with the paths of this machine. Its function
that answers a request is replaced by one that looks before it calls it; nothing else of it is touched.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from functools import wraps
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST, INTERNAL_ERROR, ErrorCode
from mlflow.pyfunc import scoring_server

MAX_BODY = 2**19  # bytes; 16 prompts of 2,000 characters take 400 KB where each is escaped
KINDS = ("application/json", "text/csv")
_SHOWN = 600  # characters of an error
_LOG = logging.getLogger(__name__)

Invocations = Callable[..., Any]


def bound_scoring_server() -> None:
    """Bound the scoring server of this process, if it is one and is not bounded yet."""
    if not hasattr(scoring_server.invocations, "__wrapped__"):
        scoring_server.invocations = bounded(scoring_server.invocations)


def bounded(invocations: Invocations) -> Invocations:
    """The function that answers a request, with bounds.

    Args:
        invocations: of MLflow: body, content type, model and schema of its input -> text, status and type of an answer.
    """

    @wraps(invocations)
    def answer(data: bytes, content_type: str | None, model: Any, input_schema: Any) -> Any:
        kind = (content_type or "").partition(";")[0].strip().lower()
        if kind not in KINDS:
            return _refused(415, f"expected a content type of {' or '.join(KINDS)}, got {kind[:100] or 'none'}")
        if len(data) > MAX_BODY:
            return _refused(413, f"expected a body of at most {MAX_BODY} bytes, got {len(data)}; send fewer prompts")
        try:
            answered = invocations(data, content_type, model, input_schema)
        except MlflowException as error:
            raise _without_trace(error) from None
        except RecursionError:
            raise MlflowException("expected a flat JSON object, got one nested too deep", BAD_REQUEST) from None
        except Exception as error:  # of MLflow's own parsing: what came was no table
            _LOG.warning("a request that could not be read: %s", repr(error)[:_SHOWN])
            message = f"expected a table with a column `prompt`, got {type(error).__name__}"
            raise MlflowException(message, BAD_REQUEST) from None
        return answered if answered.status == 200 else _refused(answered.status, answered.response)

    return answer


def failed(error: Exception) -> MlflowException:
    """What a client is told of an `error` that is not its own; the log has the rest."""
    _LOG.error("a request that could not be drawn: %s", repr(error)[:_SHOWN], exc_info=error)
    return MlflowException("the picture could not be drawn; the server's log has the reason", INTERNAL_ERROR)


def _without_trace(error: MlflowException) -> MlflowException:
    """The same error without what `stack_trace` and its message tell of this machine, and no longer than it must be."""
    message = str(error.message).partition("Traceback (most recent call last)")[0]
    _, _, own = message.rpartition("\nError: ")  # before it MLflow repeats the whole input
    return MlflowException(own[:_SHOWN], error_code=ErrorCode.Value(error.error_code))


def _refused(status: int, message: str) -> Any:
    content = json.dumps({"error_code": "BAD_REQUEST", "message": message[:_SHOWN]})
    return scoring_server.InvocationsResponse(response=content, status=status, mimetype="application/json")
