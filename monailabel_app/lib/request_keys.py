"""The keys that each request may have, their types and bounds. What is not here is refused by name."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import parse_qsl

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from lib.devices import device_called
from scripts.errors import InputError, one_line_message

LONGEST_SHOWN = 80


def _known_device(name: str) -> str:
    device_called(name)
    return name


Word = Annotated[str, Field(max_length=100)]
Name = Annotated[str, Field(min_length=1, max_length=1000)]
Device = Annotated[Word, AfterValidator(_known_device)]
Flag = Annotated[bool, Field(strict=False)]
"""A query has text only."""


class Keys(BaseModel):
    """The keys of a request. None are there by default."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class ListingKeys(Keys):
    """Of the query of `GET /datastore/`."""

    output: Literal["stats", "all"] = "stats"


class UploadKeys(Keys):
    """Of the query of `PUT /datastore/image`."""

    image: Name | None = None


class StatusKeys(Keys):
    """Of the query of `GET /train/`."""

    all: Flag = False
    check_if_running: Flag = False


class InferenceKeys(Keys):
    """Of the query of `POST /infer/MODEL`."""

    image: Annotated[str, Field(max_length=1000)] = ""
    output: Literal["image", "json", "all"] = "all"


class ClientKeys(Keys):
    """What MONAI Label's clients add to any parameters; nothing is done with it."""

    client_id: Word | None = None


class InferenceParameters(ClientKeys):
    """The JSON of `params` of `POST /infer/MODEL`. What begins with `result_` is taken and ignored: HU need 16 bits."""

    lateral: Name = ""
    device: Device = ""
    result_dtype: Word = ""
    result_extension: Word = ""
    result_compress: bool = True


class TrainingParameters(ClientKeys):
    """The JSON of `POST /train/MODEL`."""

    max_epochs: Annotated[int, Field(ge=0, le=1000)] = 0
    """Of each stage; 0 for the epochs of the configs."""
    val_split: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Part of the patients to validate on."""
    pretrained: bool = True
    """Whether to start from the weights that are served."""
    device: Device = ""
    """By default the config's."""


Known = TypeVar("Known", bound=Keys)


def checked(given: dict[str, Any], kind: type[Known]) -> Known:
    """
    Raises:
        InputError: when a key is unknown, or a value is not of its type or out of its bounds.
    """
    for name in given:
        if name not in kind.model_fields:
            expected = ", ".join(kind.model_fields) or "none"
            raise InputError(f"{shown(name)} is no key of this request, expected {expected}.")
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = str(first["loc"][0])
        raise InputError(f"{name} is {shown(given[name])}: {first['msg'].rstrip('.')}.") from error


def query_keys(query: bytes, kind: type[Known]) -> Known:
    """
    Keys of a query, as it comes after the question mark.

    Raises:
        InputError: as :func:`checked`; also when it is no UTF-8, or has a key twice.
    """
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=20)
    except ValueError as error:
        said = one_line_message(error)
        raise InputError(f"the query cannot be read ({said}), expected KEY=VALUE in UTF-8.") from error
    return checked(_once_each(pairs), kind)


def json_keys(text: str | bytes, kind: type[Known], where: str) -> Known:
    """
    Keys of an object of JSON; no text is an empty one.

    Args:
        text: of a request.
        kind: which keys.
        where: what of the request it is, for the error.

    Raises:
        InputError: as :func:`checked`; also when it is no such object, or has a key twice.
    """
    try:
        content = json.loads(text or "{}", object_pairs_hook=_once_each)
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} cannot be read as JSON ({one_line_message(error)}), expected an object.") from error
    if not isinstance(content, dict):
        raise InputError(f"{where} is a {type(content).__name__} in JSON, expected an object.")
    return checked(content, kind)


def shown(value: Any) -> str:
    """A value of a request in an error, shortened where it is long."""
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**15 else "a number of many digits"
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise InputError(f"{shown(name)} is given twice, expected once.")
        found[name] = value
    return found
