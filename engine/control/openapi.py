"""The OpenAPI 3.1 document of the control API, made from its routes (https://spec.openapis.org/oas/v3.1.0)."""

import re
from collections.abc import Sequence
from types import UnionType
from typing import Any, get_args

from ringblk.engine.base.version import VERSION
from ringblk.engine.control.http_messages import JSON, ErrorBody
from ringblk.engine.control.routes import Route
from ringblk.engine.options.json_schema import Schema, schemas_of
from ringblk.engine.statistics.statistics import LatencySummary
from ringblk.shm.layout.histogram import Histogram

REF_TEMPLATE = "#/components/schemas/{name}"
_DESCRIPTION = (
    "HTTP on the unix socket that an engine is given with --control. Bytes may be written as sizes in units"
    ' of 1024 ("100M") wherever a body asks for them.'
)


def openapi_document(routes: Sequence[Route]) -> dict[str, Any]:
    """All routes, with the schemas of what goes in and out."""
    read_types = [route.body_type for route in routes if route.body_type is not None]
    answer_types = [kind for route in routes for kind in _kinds(route.answer_type)]
    types = [*read_types, *answer_types, ErrorBody, LatencySummary]
    schemas, components = schemas_of(types, read_types, REF_TEMPLATE, _schema_of_histogram)
    schema_of = dict(zip(map(repr, types), schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {"title": "ringblk control API", "version": VERSION, "description": _DESCRIPTION},
        "servers": [{"url": "http://localhost"}],
        "paths": paths,
        "components": {"schemas": components},
    }


def _kinds(answer_type: Any) -> tuple[Any, ...]:
    """What an answer may be, where it is no text: msgspec has no schema of a union of structs."""
    if answer_type in (None, bytes):
        return ()
    return get_args(answer_type) if isinstance(answer_type, UnionType) else (answer_type,)


def _operation(route: Route, schema_of: dict[str, Schema]) -> dict[str, Any]:
    operation: dict[str, Any] = {"operationId": _operation_id(route), "summary": route.summary}
    if parameters := _parameters(route):
        operation["parameters"] = parameters
    if route.body_type is not None:
        content = {JSON: {"schema": schema_of[repr(route.body_type)]}}
        operation["requestBody"] = {"required": True, "content": content}
    error = {"description": "refused", "content": {JSON: {"schema": schema_of[repr(ErrorBody)]}}}
    operation["responses"] = {**_done(route, schema_of), "4XX": error, "5XX": error}
    return operation


def _operation_id(route: Route) -> str:
    """`patch_drive`, `get_drives_id`; `get` for the root."""
    return "_".join([route.method.lower(), *re.findall(r"\w+", route.path)])


def _parameters(route: Route) -> list[dict[str, Any]]:
    text = {"type": "string"}
    of_path = [
        {"name": name, "in": "path", "required": True, "schema": text}
        for name in re.findall(r"{(\w+)}", route.path)
    ]
    return [*of_path, *({"name": name, "in": "query", "schema": text} for name in route.query)]


def _done(route: Route, schema_of: dict[str, Schema]) -> dict[str, Any]:
    if route.answer_type is None:
        return {"204": {"description": "done"}}
    schemas = [schema_of[repr(kind)] for kind in _kinds(route.answer_type)] or [{"type": "string"}]
    schema = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
    done = {"description": "done", "content": {route.content_type.partition(";")[0]: {"schema": schema}}}
    return {"200": done, "201": {**done, "description": "begun"}} if route.may_create else {"200": done}


def _schema_of_histogram(kind: type) -> Schema:
    """What `encode_json` makes of it."""
    if kind is Histogram:
        return {"$ref": REF_TEMPLATE.format(name=LatencySummary.__name__)}
    raise NotImplementedError(f"no schema of a {kind.__name__}")
