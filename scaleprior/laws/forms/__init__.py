"""The functional forms that a law may take: a base class, the forms that are fitted by default, and a registry."""

from typing import TYPE_CHECKING

from scaleprior._lazy import lazy_exports

if TYPE_CHECKING:
    from scaleprior.laws.forms.broken import BrokenPowerLaw as BrokenPowerLaw
    from scaleprior.laws.forms.form import (
        Array as Array,
        Form as Form,
        bounded_exp as bounded_exp,
        sigmoid as sigmoid,
        softplus as softplus,
    )
    from scaleprior.laws.forms.power import M1 as M1, M2 as M2, M3 as M3, LogLinear as LogLinear
    from scaleprior.laws.forms.registry import (
        CALIBRATED as CALIBRATED,
        FORM_GROUP as FORM_GROUP,
        forms_table as forms_table,
        get_form as get_form,
        known_forms as known_forms,
        register_form as register_form,
    )
    from scaleprior.laws.forms.sigmoidal import M4 as M4, LogisticInLog as LogisticInLog

lazy_exports(__name__)
