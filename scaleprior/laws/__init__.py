"""What it means: functional forms, fitting, selection, forecasts with intervals, comparison, planning."""

from typing import TYPE_CHECKING

from scaleprior._lazy import lazy_exports

if TYPE_CHECKING:
    from scaleprior.laws.answers import Estimate as Estimate
    from scaleprior.laws.between import LawBetween as LawBetween, law_between as law_between
    from scaleprior.laws.change import (
        Change as Change,
        mean_change as mean_change,
        pooled_spread as pooled_spread,
    )
    from scaleprior.laws.compare import compare_laws as compare_laws
    from scaleprior.laws.fit import fit_law as fit_law
    from scaleprior.laws.forms.form import Form as Form
    from scaleprior.laws.forms.registry import (
        CALIBRATED as CALIBRATED,
        get_form as get_form,
        known_forms as known_forms,
        register_form as register_form,
    )
    from scaleprior.laws.ladders import fit_table as fit_table
    from scaleprior.laws.law import Law as Law
    from scaleprior.laws.pictures import draw_law as draw_law
    from scaleprior.laws.planning import plan as plan
    from scaleprior.laws.several import Ladder as Ladder, Laws as Laws, fit_laws as fit_laws
    from scaleprior.laws.straightness import Straightness as Straightness
    from scaleprior.laws.table import (
        LeftOut as LeftOut,
        Series as Series,
        Table as Table,
        differences as differences,
        read_table as read_table,
    )
    from scaleprior.laws.words import shared_notes as shared_notes

lazy_exports(__name__)
