"""Forms by name: the calibrated ones, those a program registers, and those that installed packages announce.

A package announces a form in the entry-point group ``scaleprior.forms``: each entry point bears the form's name and is
a callable without arguments that returns a :class:`Form`, usually the class itself. It is loaded when it is asked for.

Knowing a form does not fit it: "auto" stands for :data:`CALIBRATED`, whatever else is known.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from scaleprior.errors import UserError
from scaleprior.laws.forms.broken import BrokenPowerLaw
from scaleprior.laws.forms.form import Form
from scaleprior.laws.forms.power import M1, M2, M3, LogLinear
from scaleprior.laws.forms.sigmoidal import M4, LogisticInLog
from scaleprior.plugins import announced, find_announced, unknown_name

__all__ = [
    "CALIBRATED",
    "FORM_GROUP",
    "check_form",
    "forms_table",
    "get_form",
    "known_forms",
    "made_form",
    "register_form",
]

FORM_GROUP = "scaleprior.forms"
"""The entry-point group under which other packages offer forms."""

CALIBRATED: tuple[Form, ...] = (LogLinear(), M1(), M2(), M3(), M4(), LogisticInLog(), BrokenPowerLaw())
"""What "auto" fits.

The veto (select.py), how far draws are moved towards the forms (posterior.py) and the coverage of intervals were
measured with these seven together (docs/laws.md): another form here asks for a new calibration.
"""

_registered: dict[str, Form] = {}
_FormOrClass = TypeVar("_FormOrClass", bound="Form | type[Form]")


def known_forms() -> list[str]:
    """Names of the forms that ``fit_law`` accepts: the calibrated ones in their order, then all others by name."""
    calibrated = [form.name for form in CALIBRATED]
    others = {*_registered, *(point.name for point in announced(FORM_GROUP))} - set(calibrated)
    return [*calibrated, *sorted(others)]


def get_form(name: str) -> Form:
    """The form of this name or alias.

    Raises:
        UserError: no such form; lists the known ones. Two packages announce it, or its package does not load.
    """
    for form in (*CALIBRATED, *_registered.values()):
        if name in _names(form):
            return form
    make = find_announced(FORM_GROUP, name, "form")
    if make is None:
        raise unknown_name("form", name, ["auto", *known_forms()])
    form = make()
    check_form(form)
    if name not in _names(form):
        raise UserError(
            f"a package announces form {name!r}, but it is called {form.name!r}",
            hint="give its entry point the form's name",
        )
    return form


def register_form(form: _FormOrClass) -> _FormOrClass:
    """Make a form known by its name and aliases in this process; a decorator of its class, or called with an instance.

    Registering the same class again replaces it, so that a notebook's cell may run twice.

    Raises:
        UserError: the form is incomplete (see :func:`check_form`), or its name or an alias is another form's.
    """
    made = made_form(form)
    owners = {"auto": "fit_law", **{point.name: point.value for point in announced(FORM_GROUP)}}
    for other in (*CALIBRATED, *_registered.values()):
        owners.update(dict.fromkeys(_names(other), _origin(other)))
    for name in _names(made):
        if owners.get(name, _origin(made)) != _origin(made):
            raise UserError(f"form {name!r} is known already, from {owners[name]}", hint="choose another name")
    _registered[made.name] = made
    return form


def made_form(form: Form | type[Form]) -> Form:
    """The form itself, or one of the class that is given; checked.

    Raises:
        UserError: it is none, or incomplete (see :func:`check_form`).
    """
    if isinstance(form, type) and issubclass(form, Form):
        try:
            form = form()
        except TypeError as e:  # an abstract method is left, or it takes arguments
            raise UserError(f"form {form.__name__} cannot be made: {e}", hint="complete it, or give an instance") from e
    check_form(form)
    return form


def forms_table() -> str:
    """The known forms as a Markdown table: name and aliases, formula, source, and whether "auto" fits it."""
    rows = ["| name | formula | in auto | source |", "| --- | --- | --- | --- |"]
    for name in known_forms():
        form = get_form(name)
        also = f" ({', '.join(form.aliases)})" if form.aliases else ""
        rows.append(f"| {name}{also} | {form.formula} | {'yes' if form in CALIBRATED else 'no'} | {form.source} |")
    return "\n".join(rows)


def check_form(form: Form) -> None:
    """See that a form keeps the contract that fitting rests on, before a fit fails inside it.

    Raises:
        UserError: names the form and what it lacks.
    """
    if not isinstance(form, Form):
        raise UserError(f"{form!r} is not a form", hint="derive its class from scaleprior.laws.Form")
    kind = type(form).__name__
    missing = [name for name in ("name", "formula", "parameters") if not getattr(form, name, "")]
    if missing:
        raise UserError(f"form {kind} has no {', '.join(missing)}", hint="set it in the class")
    size = len(form.parameters)
    mean, scale = form.prior()
    if mean.shape != (size,) or scale.shape != (size,) or not (scale > 0).all():
        raise UserError(
            f"form {form.name!r} has {size} parameters, a prior mean of {mean.tolist()} and scale of {scale.tolist()}",
            hint="give one number a parameter, the scales above 0, or neither",
        )
    u = np.linspace(-1.0, 1.0, 3 + size)
    for theta in (mean, np.tile(mean, (2, 1)), np.tile(mean, (u.size, 1))):
        e = np.asarray(form.error(theta, u))
        call = f"form {form.name!r}: error(theta {list(theta.shape)}, u [{u.size}])"
        wanted = (*theta.shape[:-1], u.size)
        if e.shape != wanted:
            raise UserError(
                f"{call} gives shape {list(e.shape)} instead of {list(wanted)}",
                hint="natural(theta) gives the parameters as columns that combine with u",
            )
        if not np.isfinite(e).all():
            raise UserError(f"{call} is not finite at its prior's mean", hint="set prior_mean to usual parameters")


def _names(form: Form) -> tuple[str, ...]:
    """All that a form answers to."""
    return (form.name, *form.aliases)


def _origin(form: Form) -> str:
    """Where a form's class stands, written as in an entry point."""
    return f"{type(form).__module__}:{type(form).__qualname__}"
