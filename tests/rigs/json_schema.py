"""Checks values against JSON schemas (draft 2020-12): the words that this project's have, and no others."""

import re
from collections.abc import Callable, Iterator
from typing import Any

Schema = dict[str, Any]
KINDS: dict[str, Callable[[Any], bool]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: KINDS["number"](value) and value == int(value),
    "number": lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
    "string": lambda value: isinstance(value, str),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}
NOTES = {"title", "description", "default", "$schema", "$defs", "$id"}
"""Words that check nothing."""


def faults(value: Any, schema: Schema, document: Schema, at: str = "$") -> list[str]:
    """What is wrong with the value; nothing: it is as the schema says. References are into the document."""
    return list(_faults(value, schema, document, at))


def _faults(value: Any, schema: Schema, document: Schema, at: str) -> Iterator[str]:
    for word, argument in schema.items():
        if word in NOTES:
            continue
        assert word in CHECKS, f"a schema has `{word}`, which is not checked"
        yield from CHECKS[word](value, argument, schema, document, at)


def _check_ref(value: Any, ref: str, schema: Schema, document: Schema, at: str) -> Iterator[str]:
    yield from _faults(value, referred(ref, document), document, at)


def referred(ref: str, document: Schema) -> Schema:
    """What a reference leads to."""
    assert ref.startswith("#/"), ref
    found = document
    for name in ref.removeprefix("#/").split("/"):
        found = found[name]
    return found


def _check_kind(
    value: Any, kind: str | list[str], schema: Schema, document: Schema, at: str
) -> Iterator[str]:
    kinds = [kind] if isinstance(kind, str) else kind
    if not any(KINDS[each](value) for each in kinds):
        yield f"{at}: {value!r} is no {kind}"


def _check_any(value: Any, schemas: list[Schema], schema: Schema, document: Schema, at: str) -> Iterator[str]:
    found = [faults(value, each, document, at) for each in schemas]
    if all(found):
        yield f"{at}: {value!r} is none of {len(schemas)}: {found}"


def _check_enum(value: Any, values: list[Any], schema: Schema, document: Schema, at: str) -> Iterator[str]:
    if value not in values:
        yield f"{at}: {value!r} is none of {values}"


def _check_properties(
    value: Any, properties: Schema, schema: Schema, document: Schema, at: str
) -> Iterator[str]:
    if isinstance(value, dict):
        for name in value.keys() & properties.keys():
            yield from _faults(value[name], properties[name], document, f"{at}.{name}")


def _check_required(value: Any, names: list[str], schema: Schema, document: Schema, at: str) -> Iterator[str]:
    if isinstance(value, dict):
        for name in names:
            if name not in value:
                yield f"{at}: no {name}"


def _check_others(
    value: Any, others: bool | Schema, schema: Schema, document: Schema, at: str
) -> Iterator[str]:
    if isinstance(value, dict):
        for name in value.keys() - schema.get("properties", {}).keys():
            if others is False:
                yield f"{at}: {name} is unknown"
            elif isinstance(others, dict):
                yield from _faults(value[name], others, document, f"{at}.{name}")


def _check_names(value: Any, names: Schema, schema: Schema, document: Schema, at: str) -> Iterator[str]:
    if isinstance(value, dict):
        for name in value:
            yield from _faults(name, names, document, f"{at}: {name!r}")


def _check_items(value: Any, items: Schema, schema: Schema, document: Schema, at: str) -> Iterator[str]:
    if isinstance(value, list):
        for index, each in enumerate(value):
            yield from _faults(each, items, document, f"{at}[{index}]")


def _check_bound(is_within: Callable[[Any, Any], bool]) -> Callable[..., Iterator[str]]:
    def check(value: Any, bound: Any, schema: Schema, document: Schema, at: str) -> Iterator[str]:
        if KINDS["number"](value) and not is_within(value, bound):
            yield f"{at}: {value} is not within {bound}"

    return check


def _check_pattern(value: Any, pattern: str, schema: Schema, document: Schema, at: str) -> Iterator[str]:
    # ECMA 262: $ is the end of the text, and nothing may stand behind it.
    assert r"\Z" not in pattern
    if isinstance(value, str) and not re.search(pattern.replace("$", r"\Z"), value, re.ASCII):
        yield f"{at}: {value!r} is not like {pattern}"


CHECKS: dict[str, Callable[..., Iterator[str]]] = {
    "$ref": _check_ref,
    "type": _check_kind,
    "anyOf": _check_any,
    "enum": _check_enum,
    "properties": _check_properties,
    "required": _check_required,
    "additionalProperties": _check_others,
    "propertyNames": _check_names,
    "items": _check_items,
    "minimum": _check_bound(lambda value, bound: value >= bound),
    "maximum": _check_bound(lambda value, bound: value <= bound),
    "pattern": _check_pattern,
}
