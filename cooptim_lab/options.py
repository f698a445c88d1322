"""Options that are declared once: fields of a dataclass that know their bounds, choices and help.

What ways and studies take is declared by them (`training.spec`); which there are is not known here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import field
from typing import Any, get_type_hints

from .errors import InputError


def option(
    default: Any,
    help: str,
    *,
    at_least: float | None = None,
    choices: tuple[str, ...] = (),
    flag: str = "",
    takes_class: str = "",
    shown_as: str = "",
) -> Any:
    """A dataclass field that knows its bounds.

    `flag` is a one-letter short form for command lines; `takes_class` names the method of a class that may be given in
    place of one of the choices; `shown_as` is what stands for a value in help.
    """
    rules = {"help": help, "at_least": at_least, "choices": choices, "flag": flag}
    return field(default=default, metadata={**rules, "takes_class": takes_class, "shown_as": shown_as})


def validate(spec: Any) -> None:
    """Check every field of a dataclass made of `option`s against its type, bounds and choices.

    Raises
    ------
    InputError
        Naming the field, what was given and what is allowed.
    """
    hints = get_type_hints(type(spec))
    for item in dataclasses.fields(spec):
        check_option(item.name, getattr(spec, item.name), hints[item.name], item.metadata)


def check_option(name: str, value: Any, kind: Any, rules: Mapping[str, Any]) -> None:
    """Refuse a value that an option does not allow (see `validate`)."""
    choices, at_least, method = rules["choices"], rules["at_least"], rules.get("takes_class", "")
    if method and isinstance(value, type) and callable(getattr(value, method, None)):
        return
    if method and not isinstance(value, str):
        kinds = ", ".join(choices)
        raise InputError(f"{name} = {value!r}: choose one of {kinds}, or give a class with a method {method}")
    if choices and value not in choices:
        raise InputError(f"{name} = {value!r}: choose one of {', '.join(choices)}")
    if kind == tuple[int, ...]:
        if not isinstance(value, tuple) or not value:
            raise InputError(f"{name} = {value!r}: give whole numbers, e.g. (1, 2, 4)")
        for each in value:
            check_option(name, each, int, rules)
    if kind is int and (isinstance(value, bool) or not isinstance(value, int)):
        raise InputError(f"{name} = {value!r}: give a whole number")
    if kind is float and (isinstance(value, bool) or not isinstance(value, (int, float)) or not value < float("inf")):
        raise InputError(f"{name} = {value!r}: give a number")
    if kind in (int, float) and at_least is not None and value < at_least:
        raise InputError(f"{name} = {value}: must be {at_least} or more")
