"""From records to a signed statement, and back; imports without torch. Also the verb `expunge.certify`."""

from expunge.verbs import make_callable

certify = make_callable(__name__, "expunge.certifying")
