"""The shipped orchestrations, one pattern a file; `--app celeriac.orchestrations.examples` serves all."""

from . import approve_expense, backup_site, fulfil_order

__all__ = ["approve_expense", "backup_site", "fulfil_order"]
