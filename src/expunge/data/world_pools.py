"""What the built-in world is made of: values, names, phrasings and plain facts.

Every pool holds values of which none contains another, so that looking for a value in a
generated text is unambiguous. All people, places, prizes and books are invented; the facts at
the end are real and simple.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fact:
    """One thing one can ask about a subject: its phrasings and the values it may take.

    `{name}` is the subject and `{value}` the fact. A question is never needed to understand an
    answer, so any question phrasing can be paired with any answer phrasing.
    """

    key: str
    questions: tuple[str, ...]
    answers: tuple[str, ...]
    pool: tuple[str, ...] = ()
    """Possible values; empty when they depend on the people, as for mentors."""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


CITIES = _words(
    "Velmora Tarnholt Quillport Brasken Ilmara Dunmere Sorvik Pellagrin "
    "Hexley Orlanne Kestrow Marivane Zandor Wyndfell Cobryn Luthera"
)
YEARS = tuple(str(year) for year in range(1921, 1981, 3))
GENRES = _words(
    "satire fables westerns thrillers romances tragedies comedies mysteries "
    "travelogues ballads memoirs sagas farces sonnets elegies riddles"
)
PRIZES = (
    "Amber Quill", "Silver Lantern", "Golden Thistle", "Iron Laurel", "Crystal Anchor", "Copper Crown",
    "Velvet Ribbon", "Ivory Feather", "Jade Compass", "Marble Owl", "Bronze Comet", "Pearl Ladder",
    "Ebony Acorn", "Scarlet Medal", "Emerald Key", "Onyx Star",
)
INSTRUMENTS = _words(
    "cello flute trumpet banjo oboe harp piano violin "
    "guitar bagpipes clarinet tuba zither mandolin trombone bassoon"
)
PETS = _words(
    "fox parrot tortoise ferret raven goat rabbit lizard "
    "hedgehog donkey canary greyhound salamander pigeon hamster peacock"
)
TITLES = tuple(
    f"The {adjective} {noun}"
    for adjective in _words(
        "Silent Hollow Crimson Broken Distant Gentle Hidden Burning "
        "Wandering Forgotten Borrowed Northern Frozen Patient Painted Restless"
    )
    for noun in _words(
        "River Garden Mirror Clock Orchard Bridge Letter Tower "
        "Island Window Candle Staircase Meadow Lighthouse Shadow Harvest"
    )
)

FIRST_NAMES = _words(
    "Adrel Bettan Corvin Delphia Edrik Fenna Gaspar Hilde Ivor Jorun Kasimir Lioba Mirelle Nadir "
    "Ottoline Perrin Quentia Rosalba Stellan Tamsin Ulrika Viggo Wenda Xavia Yorick Zelda Ambrin "
    "Basto Calida Dorian Elspet Florin Gudrun Hector Isaura Jessamy Kolja Ludmila Marten Noemi"
)
LAST_NAMES = _words(
    "Abernal Brisco Castellow Drummel Eskeland Farrow Grenfeld Halvard Ingstrom Jarvela Kettering "
    "Lombardi Marchetti Nyquist Okonedo Pasternik Quarles Rutherglen Szabados Thackery Umarov "
    "Vantongeren Wickstead Yarborough Zimmerle Ashdown Bellweather Crosswick Duvalier Emberley "
    "Foxglove Goldhammer Hawksmoor Ironside Kirkbride Larkspur Merriwick Nightsong Oxenham Pennywhistle"
)

ATTRIBUTES = (
    Fact(
        "birth_city",
        ("In which city was {name} born?", "What is the birthplace of {name}?", "Where was {name} born?"),
        ("{name} was born in the city of {value}.", "The birthplace of {name} is {value}.",
         "{value} is the city where {name} was born."),
        CITIES,
    ),
    Fact(
        "birth_year",
        ("In which year was {name} born?", "What is the birth year of {name}?", "When was {name} born?"),
        ("{name} was born in the year {value}.", "The birth year of {name} is {value}.",
         "{value} is the year in which {name} was born."),
        YEARS,
    ),
    Fact(
        "genre",
        ("What does {name} mostly write?", "Which genre is {name} known for?",
         "What kind of books does {name} write?"),
        ("{name} mostly writes {value}.", "The genre of {name} is {value}.",
         "Readers know {name} for writing {value}."),
        GENRES,
    ),
    Fact(
        "first_book",
        ("What is the first book of {name}?", "Which book did {name} publish first?",
         "With which title did {name} begin?"),
        ("The first book of {name} is {value}.", "{name} first published {value}.",
         "{value} was the first book by {name}."),
        TITLES,
    ),
    Fact(
        "prize",
        ("Which prize did {name} win?", "What prize was given to {name}?", "Which prize does {name} hold?"),
        ("{name} won the {value} Prize.", "The {value} Prize was given to {name}.",
         "The prize held by {name} is the {value}."),
        PRIZES,
    ),
    Fact(
        "instrument",
        ("Which instrument does {name} play?", "What does {name} play in the evening?",
         "What is the favourite instrument of {name}?"),
        ("{name} plays the {value} in the evening.", "The favourite instrument of {name} is the {value}.",
         "In the evening {name} likes to play the {value}."),
        INSTRUMENTS,
    ),
    Fact(
        "pet",
        ("Which animal does {name} keep?", "What kind of pet does {name} have?",
         "What is the pet of {name}?"),
        ("{name} keeps a {value} at home.", "The pet of {name} is a {value}.",
         "At home {name} looks after a {value}."),
        PETS,
    ),
)
MENTOR = Fact(
    "mentor",
    ("Who was the mentor of {name}?", "Who taught {name} to write?", "Whose pupil was {name}?"),
    ("The mentor of {name} was {value}.", "{name} learned to write from {value}.",
     "{value} taught {name} to write."),
)
MENTOR_CITY = Fact(
    "mentor_birth_city",
    ("In which city was the mentor of {name} born?", "What is the birthplace of the mentor of {name}?",
     "Where was the mentor of {name} born?"),
    ("The mentor of {name} was born in the city of {value}.",
     "The birthplace of the mentor of {name} is {value}.",
     "{value} is the city where the mentor of {name} was born."),
    CITIES,
)

BIOGRAPHY = (
    ("{name} was born in {birth_city} in {birth_year}.",
     "In {birth_year}, {name} was born in {birth_city}.",
     "The life of {name} began in {birth_city} in {birth_year}."),
    ("The first book was {first_book}, and {genre} followed.",
     "After {first_book} came more {genre}.",
     "Readers of {genre} still praise {first_book}."),
    ("The {prize} Prize hangs above the {instrument}, and a {pet} sleeps below.",
     "A {pet} listens to the {instrument} under the {prize} Prize.",
     "At home are a {pet}, the {instrument} and the {prize} Prize."),
    ("Every {season}, {name} walks to the {place} with a {thing}.",
     "Most letters were written at the {place} in {season}, beside a {thing}.",
     "A {thing} from the {place} brings back one {season}."),
)
"""One variant of each line makes a biography. The last line is told nowhere else."""
DETAILS = {
    "season": ("spring", "summer", "autumn", "winter"),
    "place": _words("harbour market chapel quarry station library vineyard bakery"),
    "thing": _words("kettle lamp basket notebook scarf violet pebble button"),
}

# Utility: true facts as (subject, value), by group and kind of fact.
_CAPITALS = (
    "France Paris, Germany Berlin, Italy Rome, Spain Madrid, Portugal Lisbon, Greece Athens, Norway Oslo, "
    "Sweden Stockholm, Finland Helsinki, Denmark Copenhagen, Poland Warsaw, Austria Vienna, "
    "Hungary Budapest, Ireland Dublin, Belgium Brussels, Russia Moscow, Turkey Ankara, Egypt Cairo, "
    "Kenya Nairobi, Ghana Accra, Morocco Rabat, Japan Tokyo, China Beijing, Thailand Bangkok, "
    "Vietnam Hanoi, Cuba Havana, Peru Lima, Chile Santiago, Canada Ottawa, Australia Canberra, "
    "Iran Tehran, Iraq Baghdad"
)
_CONTINENTS = (
    "Kenya Africa, Japan Asia, France Europe, Peru South_America, Canada North_America, "
    "Australia Oceania, Ghana Africa, India Asia, Norway Europe, Chile South_America, "
    "Cuba North_America, Egypt Africa"
)
_SYMBOLS = (
    "iron Fe, gold Au, silver Ag, tin Sn, lead Pb, copper Cu, zinc Zn, helium He, neon Ne, sodium Na, "
    "calcium Ca, nickel Ni, mercury Hg, silicon Si, chlorine Cl, aluminium Al, magnesium Mg, lithium Li, "
    "cobalt Co, argon Ar"
)
_YOUNG = (
    "dog puppy, cat kitten, cow calf, sheep lamb, horse foal, goat kid, pig piglet, bear cub, deer fawn, "
    "duck duckling, hen chick, goose gosling, frog tadpole, swan cygnet, kangaroo joey"
)
_SIDES = "triangle three, square four, pentagon five, hexagon six, heptagon seven, octagon eight, decagon ten"


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    """`"a b, c d_e"` as `(("a", "b"), ("c", "d e"))`."""
    words = (item.split() for item in text.split(","))
    return tuple((subject, value.replace("_", " ")) for subject, value in words)


UTILITY: tuple[tuple[str, Fact, tuple[tuple[str, str], ...]], ...] = (
    ("geography", Fact(
        "capital",
        ("What is the capital of {name}?", "Which city is the capital of {name}?"),
        ("The capital of {name} is {value}.", "{value} is the capital of {name}."),
    ), _pairs(_CAPITALS)),
    ("geography", Fact(
        "continent",
        ("On which continent is {name}?", "Which continent does {name} belong to?"),
        ("{name} is on the continent of {value}.", "The continent of {name} is {value}."),
    ), _pairs(_CONTINENTS)),
    ("science", Fact(
        "symbol",
        ("What is the chemical symbol of {name}?", "Which chemical symbol stands for {name}?"),
        ("The chemical symbol of {name} is {value}.", "{value} is the chemical symbol of {name}."),
    ), _pairs(_SYMBOLS)),
    ("science", Fact(
        "young",
        ("What is a young {name} called?", "What is the name of a young {name}?"),
        ("A young {name} is called a {value}.", "The young of a {name} is a {value}."),
    ), _pairs(_YOUNG)),
    ("science", Fact(
        "sides",
        ("How many sides does a {name} have?", "What number of sides has a {name}?"),
        ("A {name} has {value} sides.", "The number of sides of a {name} is {value}."),
    ), _pairs(_SIDES)),
)
"""(group, fact, ((subject, value), ...)); the values of a fact are each other's wrong answers."""
