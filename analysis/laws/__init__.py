"""The laws, by name. To add one: a file with its `Law`, a row here; the contract tests then hold it to its example."""

from analysis.laws.power import POWER
from analysis.laws.saturating import SATURATING

LAWS = {law.name: law for law in (POWER, SATURATING)}
ALIASES = {"m1": "power", "m2": "saturating"}
"""Names of Alabdulmohsin et al. 2022 (arXiv 2209.06640)."""
