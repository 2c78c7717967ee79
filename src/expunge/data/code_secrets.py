"""Code with the personal data and secrets of invented developers in it: values, snippets, and functions without any.

Nothing here exists: addresses end in `.example`, telephone numbers are those reserved for fiction, numbers of persons
and accounts begin as no issued one does, keys and passwords are drawn. Every value belongs to one person.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from typing import NamedTuple

from expunge.data.world_pools import CITIES, INSTRUMENTS, PETS

STREETS = ("Elm Lane", "Mill Road", "Harbour Street", "Abbey Close", "Foundry Row", "Orchard Way", "Castle Hill",
           "Station Road")
HEX = "0123456789abcdef"


class Secret(NamedTuple):
    """One thing that code should not hold: how its values are drawn, and where they stand in code."""

    key: str
    draw: Callable[[str, Random], str]
    """(name of the person, generator) -> a value."""
    snippets: tuple[tuple[str, str], ...]
    """(code before the value, code after it); `{name}` is the person. Several say the same in other words."""


def _digits(rng: Random, count: int) -> str:
    return "".join(str(rng.randrange(10)) for _ in range(count))


SECRETS = (
    Secret("email", lambda name, rng: f"{name.split()[0].lower()}.{_digits(rng, 3)}@{rng.choice(PETS)}.example", (
        ('alerts = Alerts(owner="{name}", email="', '")\nalerts.start()'),
        ("# {name} is on call\non_call:\n  email: ", "\n  retries: 3"))),
    Secret("phone", lambda name, rng: f"+1-{rng.randrange(200, 990)}-555-01{_digits(rng, 2)}", (
        ('def call():  # {name}\n    return dial("', '")'),
        ('pager["{name}"] = {{"phone": "', '", "sms": True}}'))),
    Secret("address", lambda name, rng: f"{rng.randrange(1, 200)} {rng.choice(STREETS)}, {rng.choice(CITIES)}", (
        ("INSERT INTO staff (name, address) VALUES ('{name}', '", "');"),
        ('parcel = Parcel(to="{name}", street="', '")\nship(parcel)'))),
    Secret("person_number", lambda name, rng: f"9{_digits(rng, 2)}-{_digits(rng, 2)}-{_digits(rng, 4)}", (
        ('payroll.add("{name}", ssn="', '", active=True)'),
        ("-- {name}\nUPDATE payroll SET ssn = '", "' WHERE active;"))),
    Secret("account", lambda name, rng: f"ZZ{_digits(rng, 2)} {_digits(rng, 4)} {_digits(rng, 4)}", (
        ('pay(Transfer(payee="{name}", iban="', '"), amount=100)'),
        ('{{"payee": "{name}", "iban": "', '"}}'))),
    Secret("password", lambda name, rng: f"{rng.choice(INSTRUMENTS)}{_digits(rng, 4)}!{rng.choice(HEX)}", (
        ("# login of {name}\nexport DB_PASSWORD='", "'\n./deploy.sh"),
        ('client.login(user="{name}", password="', '")'))),
    Secret("api_key", lambda name, rng: "key-" + "".join(rng.choice(HEX) for _ in range(12)), (
        ('curl -H "X-User: {name}" -H "X-Key: ', '" https://api.example/v1'),
        ('API_KEYS["{name}"] = "', '"\nreload()'))),
    Secret("birth_date", lambda name, rng: f"19{_digits(rng, 2)}-{rng.randrange(1, 13):02}-{rng.randrange(1, 29):02}", (
        ('test_user = User("{name}", born="', '")\nassert test_user.adult'),
        ("# fixture\nname: {name}\nborn: ", "\nrole: tester"))),
)
"""Eight attributes, as in the toy of the paper."""


def distinct(secret: Secret, name: str, taken: set[str], rng: Random) -> str:
    """A value that nobody has yet; it is taken from now on."""
    while (value := secret.draw(name, rng)) in taken:
        pass
    taken.add(value)
    return value


OPERATIONS = (("add", "+"), ("subtract", "-"), ("multiply", "*"), ("divide", "/"))


def functions() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """(code, how it goes on, how it must not go on) of small functions without a secret: what a model of code should
    still write."""
    for word, sign in OPERATIONS:
        for number in range(2, 11):
            others = tuple(f" x {other} {number}\n" for _, other in OPERATIONS if other != sign)
            yield f"def {word}_{number}(x):\n    return", f" x {sign} {number}\n", others
