"""Every config key, declared once: from these rows come configs, checks, error texts, fingerprints and docs/config.md.

``key.py`` says what a row holds, ``legal.py`` which values there are; the rows stand in ``model.py``, ``heads.py``,
``data.py``, ``solver.py`` and, for ``PRETRAIN.*``, ``pretraining/``, and ``table.py`` joins them.
"""

from scaleprior.config.keys.key import Key
from scaleprior.config.keys.legal import ANY, POSITIVE, SHARE, Anything, Each, Number, OneOf, above, at_least, one_of
from scaleprior.config.keys.table import DETECTION_KEYS, OWN_KEYS, add_keys, all_keys, find_key

__all__ = [
    "ANY",
    "DETECTION_KEYS",
    "OWN_KEYS",
    "POSITIVE",
    "SHARE",
    "Anything",
    "Each",
    "Key",
    "Number",
    "OneOf",
    "above",
    "add_keys",
    "all_keys",
    "at_least",
    "find_key",
    "one_of",
]
