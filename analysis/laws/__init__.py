"""The laws, by name. To add one: a file with its `Law`, a row here; the contract tests then hold it to its example."""

from analysis.laws.power import POWER
from analysis.laws.saturating import SATURATING

LAWS = {law.name: law for law in (POWER, SATURATING)}
