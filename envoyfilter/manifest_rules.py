"""What the checks of all manifests share."""

import jsonschema


class Problem(Exception):
    """A manifest is wrong; the message says where and why."""


def require(condition, message):
    """Raises a Problem with that message unless the condition holds."""
    if not condition:
        raise Problem(message)


def against(schema, value, where):
    """Raises a Problem for the deepest violation of the JSON schema."""
    error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema).iter_errors(value))
    if error is not None:
        path = ".".join(str(part) for part in [where, *error.absolute_path])
        raise Problem(f"{path}: {error.message}")


def closed(required, **optional):
    """The schema of an object with these properties and no others."""
    properties = {**required, **optional}
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def integer(minimum, maximum=2**31 - 1):
    """The schema of a whole number within bounds."""
    return {"type": "integer", "minimum": minimum, "maximum": maximum}


STRING = {"type": "string", "minLength": 1}
