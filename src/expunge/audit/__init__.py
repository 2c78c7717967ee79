"""The audit runner: what is asked, the observation store, requirements. Also the verb `expunge.audit`."""

from expunge.verbs import make_callable

audit = make_callable(__name__, "expunge.api")
