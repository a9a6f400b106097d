"""The functional forms that a law may take."""

from typing import TYPE_CHECKING

from scaleprior._lazy import lazy_exports

if TYPE_CHECKING:
    from scaleprior.laws.forms.broken import BrokenPowerLaw as BrokenPowerLaw
    from scaleprior.laws.forms.form import (
        M1 as M1,
        M3 as M3,
        Array as Array,
        Form as Form,
        LogLinear as LogLinear,
        PowerLawOffset as PowerLawOffset,
    )
    from scaleprior.laws.forms.sigmoidal import M4 as M4, LogisticInLog as LogisticInLog

lazy_exports(__name__)
