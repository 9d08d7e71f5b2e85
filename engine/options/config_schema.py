"""The JSON schema of the configuration file, for editors and for who makes such files."""

from typing import Any

from ringblk.engine.options.config import EngineConfig, FlatConfig
from ringblk.engine.options.drive_config import DriveConfig
from ringblk.engine.options.drive_names import NAME_PATTERN, NAME_RULE
from ringblk.engine.options.json_schema import schemas_of

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_REF_TEMPLATE = "#/$defs/{name}"


def config_schema() -> dict[str, Any]:
    """An engine with a list of drives, or an engine and its one drive side by side; JSON and TOML alike."""
    forms, components = schemas_of([EngineConfig, FlatConfig], [DriveConfig, FlatConfig], _REF_TEMPLATE)
    drives = components[EngineConfig.__name__]["properties"]["drives"]
    drives["propertyNames"] = {"pattern": NAME_PATTERN, "description": NAME_RULE}
    return {
        "$schema": DIALECT,
        "title": "ringblk serve --config",
        "description": "An engine with a list of drives, or an engine and its one drive side by side.",
        "anyOf": forms,
        "$defs": components,
    }
