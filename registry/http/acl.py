"""`/v1/acl`: there is no access control, which is what every one of these endpoints says."""

from __future__ import annotations

from registry.http.api import ApiRequest, ApiResponse, HttpError, Routes
from registry.http.operations import Operation, Refusal
from registry.http.options import argument

routes = Routes()

DISABLED = "ACL support disabled"

#: All operations of the two generations of the interface, by pattern.
OPERATIONS = {
    "/v1/acl/bootstrap": "PUT",
    "/v1/acl/replication": "GET",
    "/v1/acl/rules/translate": "POST",
    "/v1/acl/rules/translate/": "GET",
    "/v1/acl/login": "POST",
    "/v1/acl/logout": "POST",
    "/v1/acl/tokens": "GET",
    "/v1/acl/token": "PUT",
    "/v1/acl/token/self": "GET",
    "/v1/acl/token/": "GET PUT DELETE",
    "/v1/acl/policies": "GET",
    "/v1/acl/policy": "PUT",
    "/v1/acl/policy/name/": "GET",
    "/v1/acl/policy/": "GET PUT DELETE",
    "/v1/acl/roles": "GET",
    "/v1/acl/role": "PUT",
    "/v1/acl/role/name/": "GET",
    "/v1/acl/role/": "GET PUT DELETE",
    "/v1/acl/auth-methods": "GET",
    "/v1/acl/auth-method": "PUT",
    "/v1/acl/auth-method/": "GET PUT DELETE",
    "/v1/acl/binding-rules": "GET",
    "/v1/acl/binding-rule": "PUT",
    "/v1/acl/binding-rule/": "GET PUT DELETE",
    "/v1/acl/create": "PUT",
    "/v1/acl/update": "PUT",
    "/v1/acl/destroy/": "PUT",
    "/v1/acl/info/": "GET",
    "/v1/acl/clone/": "PUT",
    "/v1/acl/list": "GET",
    "/v1/internal/acl/authorize": "POST",
}


async def disabled(request: ApiRequest) -> ApiResponse:
    raise HttpError(401, DISABLED)


_ID = argument("id", "The id or the name of the thing.")


def _operation(pattern: str) -> Operation:
    return Operation(
        summary="Access control: there is none, so this is refused",
        path=(_ID,) if pattern.endswith("/") else (),
        answers=(),
        refusals=(Refusal(401, DISABLED),),
    )


for _pattern, _methods in OPERATIONS.items():
    for _method in _methods.split():
        routes.add(_method, _pattern, _operation(_pattern))(disabled)
