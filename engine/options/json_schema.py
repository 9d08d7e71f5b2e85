"""JSON schemas (draft 2020-12) of what is configured and sent, made from the types that it is read with.

The types say all but what is done before they are looked at: bytes may be written as sizes (`read_sizes`),
and a drive's `rate_limiter` is Firecracker's form.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import msgspec

from ringblk.engine.base.number_text import SIZE_PATTERN
from ringblk.engine.options.drive_config import SIZE_OPTIONS
from ringblk.engine.options.rate_limiter_config import (
    BYTE_LIMITS,
    RateLimiterConfig,
    TokenBucketConfig,
    WholeBucket,
)

SIZE_FIELDS = ("size_bytes", *BYTE_LIMITS, *SIZE_OPTIONS)
"""Where bytes may be written as sizes."""
_BYTE_BUCKETS = {
    WholeBucket.__name__: ("WholeByteBucket", ("tokens", "burst", "one_time_burst")),
    TokenBucketConfig.__name__: ("TokenByteBucketConfig", ("size", "one_time_burst")),
}
"""Buckets of bytes: what those are called in which sizes may stand, and where."""
_LIMITER = "ByteRateLimiterConfig"
_SIZE = {"type": "string", "pattern": SIZE_PATTERN, "description": "a size in units of 1024, such as 100M"}

Schema = dict[str, Any]


def schemas_of(
    types: Sequence[Any],
    read_types: Iterable[type[msgspec.Struct]],
    ref_template: str,
    hook: Callable[[type], Schema] | None = None,
) -> tuple[list[Schema], dict[str, Schema]]:
    """The schemas of these types, and the components that they refer to.

    `read_types` are those that are read, with sizes where bytes stand. `hook` knows types that msgspec does
    not.
    """
    schemas, components = msgspec.json.schema_components(
        [*types, RateLimiterConfig, WholeBucket],
        schema_hook=partial(_custom, hook),
        ref_template=ref_template,
    )
    for name, (byte_name, fields) in _BYTE_BUCKETS.items():
        components[byte_name] = {**copy.deepcopy(components[name]), "title": byte_name}
        for field in fields:
            _let_be_size(components[byte_name]["properties"], field)
    components[_LIMITER] = {**copy.deepcopy(components[RateLimiterConfig.__name__]), "title": _LIMITER}
    _use_byte_buckets(components[_LIMITER]["properties"]["bandwidth"])
    for read_type in read_types:
        _let_have_sizes(components[read_type.__name__]["properties"], ref_template)
    own = list(schemas[: len(types)])
    used = {name: components[name] for name in sorted(_used(own, components, ref_template))}
    for each in _walk([own, used]):
        if "pattern" in each:  # Python's end of text is a letter in ECMA 262, whose patterns schemas have
            each["pattern"] = each["pattern"].replace(r"\Z", "$")
    return own, used


def _custom(hook: Callable[[type], Schema] | None, kind: type) -> Schema:
    """The schema of a type that msgspec does not know."""
    if kind is object:
        return {"description": "anything"}  # msgspec takes an empty one for none
    if hook is None:
        raise NotImplementedError(f"no schema of a {kind.__name__}")
    return hook(kind)


def _let_have_sizes(properties: Schema, ref_template: str) -> None:
    for field in SIZE_FIELDS:
        if field in properties:
            _use_byte_buckets(properties[field])
            _let_be_size(properties, field)
    if "rate_limiter" in properties:
        is_optional = {"type": "null"} in properties["rate_limiter"].get("anyOf", [])
        limiter = {"$ref": ref_template.format(name=_LIMITER)}
        properties["rate_limiter"] = {"anyOf": [limiter, {"type": "null"}]} if is_optional else limiter


def _let_be_size(properties: Schema, field: str) -> None:
    """Beside a number, a size."""
    schema = properties[field]
    if "anyOf" in schema:
        schema["anyOf"].append(_SIZE)
        return
    around = {key: schema.pop(key) for key in ("default", "description") if key in schema}
    properties[field] = {"anyOf": [schema, _SIZE], **around}


def _use_byte_buckets(schema: Schema) -> None:
    """Refer to buckets of bytes in place of buckets of anything."""
    for each in (schema, *schema.get("anyOf", [])):
        folder, _, name = each.get("$ref", "").rpartition("/")
        if name in _BYTE_BUCKETS:
            each["$ref"] = f"{folder}/{_BYTE_BUCKETS[name][0]}"


def _used(schemas: Iterable[Any], components: dict[str, Schema], ref_template: str) -> set[str]:
    """The components that are referred to, also by other components."""
    names = {ref_template.format(name=name): name for name in components}
    used: set[str] = set()
    waiting: list[Any] = list(schemas)
    while waiting:
        found = {names[each["$ref"]] for each in _walk(waiting.pop()) if each.get("$ref") in names}
        waiting += (components[name] for name in found - used)
        used |= found
    return used


def _walk(value: Any) -> Iterator[Schema]:
    """All objects in it."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from _walk(each)
