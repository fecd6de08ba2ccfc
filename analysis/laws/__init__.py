"""The laws, by name. To add one: a file with its `Law`, a row here; the contract tests then hold it to its example."""

from analysis.laws.broken import BROKEN1, BROKEN2, BROKEN3
from analysis.laws.chinchilla import CHINCHILLA, CHINCHILLA_TIED
from analysis.laws.constrained import CONSTRAINED
from analysis.laws.m3 import M3
from analysis.laws.m4 import M4
from analysis.laws.mixture import mixture
from analysis.laws.power import POWER
from analysis.laws.saturating import SATURATING
from analysis.laws.sigmoid import SIGMOID

LAWS = {
    law.name: law
    for law in (POWER, SATURATING, M3, M4, BROKEN1, BROKEN2, BROKEN3, SIGMOID, CHINCHILLA, CHINCHILLA_TIED, CONSTRAINED)
}
ALIASES = {"m1": "power", "m2": "saturating", "broken": "broken1"}
"""Names of Alabdulmohsin et al. 2022 (arXiv 2209.06640)."""
FAMILIES = {"mixture": mixture}
"""Laws that depend on names of the table: modalities -> Law."""
