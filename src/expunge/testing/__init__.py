"""The contract of plug-ins: what each must show, and the small models and rows that it is shown on.

    from expunge.testing import check_plugin

    def test_focus():
        check_plugin(Focus)

Needs the extra `test`. Nothing else in the package imports this folder.
"""

from __future__ import annotations

from expunge.errors import MissingExtra, install_line

try:
    import pytest
except ImportError:
    raise MissingExtra("expunge.testing needs pytest.", "The checks of plug-ins are written with it.",
                       f"Install it with: {install_line('test')}.") from None

pytest.register_assert_rewrite("expunge.testing.checks", "expunge.testing.support")  # a failure shows its figures

from .cases import Case, check_plugin, contract_cases  # noqa: E402

__all__ = ["Case", "check_plugin", "contract_cases"]
