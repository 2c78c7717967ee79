"""From records to a page; imports without torch. Also the verb `expunge.report`."""

from expunge.verbs import make_callable

report = make_callable(__name__, "expunge.report.page")
