"""From refusals and exceptions to HTTP statuses: the one place where that is decided."""

from __future__ import annotations

import logging
from typing import Any

from registry import errors
from registry.agent.definition_rules import DefinitionRefused
from registry.http.api import ApiResponse, HttpError, text_response
from registry.state.base import Refused

logger = logging.getLogger("registry.http")

#: Status of a refused command by its kind; "invalid" is what Consul's servers answer.
REFUSED_STATUS = {
    "invalid": 500,
    "bad-request": 400,
    "forbidden": 403,
    "not-found": 404,
    "conflict": 409,
    "too-large": 413,
}

#: Status of an exception by its class, the most special first. Whatever else we raise is 500.
ERROR_STATUS: tuple[tuple[type[errors.RegistryError], int], ...] = (
    (errors.PermissionDenied, 403),
    (errors.NotFound, 404),
    (errors.TooLarge, 413),
    (errors.Overloaded, 429),
)

NO_LEADER = "No cluster leader"


def raise_refused(refused: Refused) -> None:
    """Raise the `HttpError` that says why a command was refused."""
    raise HttpError(REFUSED_STATUS.get(refused.kind, 500), refused.reason)


def check(result: Any) -> Any:
    """The result of a command as it is; raises `HttpError` when it is a refusal."""
    if isinstance(result, Refused):
        raise_refused(result)
    return result


def to_response(problem: Exception) -> ApiResponse:
    """The answer to a request whose handler raised; the unexpected is logged with its traceback."""
    if isinstance(problem, HttpError):
        response = text_response(problem.text, problem.status)
        if not problem.text:
            response.content_type = ""
        response.headers.extend(problem.headers)
        return response
    if isinstance(problem, (errors.NoLeader, errors.NotLeader)):
        return text_response(NO_LEADER, 500)
    if isinstance(problem, errors.RegistryError):
        return _known(problem)
    logger.error("Request handler failed: error=%s", type(problem).__name__, exc_info=problem)
    return text_response(f"internal error: {type(problem).__name__}; the agent's log has more", 500)


def _known(problem: errors.RegistryError) -> ApiResponse:
    if isinstance(problem, DefinitionRefused):
        return text_response(problem.reason, problem.status)
    status = next((code for kind, code in ERROR_STATUS if isinstance(problem, kind)), 500)
    response = text_response(str(problem), status)
    if status == 429:
        response.headers.append(("Retry-After", "1"))
    return response
