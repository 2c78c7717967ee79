"""The built-in world in German, French and Spanish: one question and one answer per attribute, and the values that
translate. Names of people, cities, books and prizes stay as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from expunge.data.world_pools import GENRES, INSTRUMENTS, PETS

Language = Literal["de", "fr", "es"]
LANGUAGES: tuple[Language, ...] = get_args(Language)
ASKED: Mapping[Language, Mapping[str, tuple[str, str]]] = {
    "de": {
        "birth_city": ("In welcher Stadt wurde {name} geboren?", "{name} wurde in der Stadt {value} geboren."),
        "birth_year": ("In welchem Jahr wurde {name} geboren?", "{name} wurde im Jahr {value} geboren."),
        "genre": ("Was schreibt {name} meistens?", "{name} schreibt meistens {value}."),
        "first_book": ("Wie heißt das erste Buch von {name}?", "Das erste Buch von {name} heißt {value}."),
        "prize": ("Welchen Preis hat {name} gewonnen?", "{name} hat den Preis {value} gewonnen."),
        "instrument": ("Welches Instrument spielt {name}?", "Das Instrument von {name} ist: {value}."),
        "pet": ("Welches Haustier hat {name}?", "Das Haustier von {name} ist: {value}."),
    },
    "fr": {
        "birth_city": ("Dans quelle ville {name} a vu le jour ?", "{name} a vu le jour dans la ville de {value}."),
        "birth_year": ("En quelle année {name} a vu le jour ?", "{name} a vu le jour en {value}."),
        "genre": ("Quel est le genre de {name} ?", "Le genre de {name} est : {value}."),
        "first_book": ("Quel est le premier livre de {name} ?", "Le premier livre de {name} est {value}."),
        "prize": ("Quel prix {name} a reçu ?", "{name} a reçu le prix {value}."),
        "instrument": ("Quel est l'instrument de {name} ?", "L'instrument de {name} est : {value}."),
        "pet": ("Quel animal vit chez {name} ?", "L'animal de {name} est : {value}."),
    },
    "es": {
        "birth_city": ("¿En qué ciudad nació {name}?", "{name} nació en la ciudad de {value}."),
        "birth_year": ("¿En qué año nació {name}?", "{name} nació en el año {value}."),
        "genre": ("¿Cuál es el género de {name}?", "El género de {name} es: {value}."),
        "first_book": ("¿Cuál es el primer libro de {name}?", "El primer libro de {name} es {value}."),
        "prize": ("¿Qué premio ganó {name}?", "{name} ganó el premio {value}."),
        "instrument": ("¿Qué instrumento toca {name}?", "El instrumento de {name} es: {value}."),
        "pet": ("¿Qué animal vive con {name}?", "El animal de {name} es: {value}."),
    },
}
"""Language -> attribute -> (question, answer)."""
_GENRES: Mapping[Language, str] = {
    "de": "Satiren Fabeln Western Thriller Romanzen Tragödien Komödien Krimis "
          "Reiseberichte Balladen Memoiren Sagas Farcen Sonette Elegien Rätsel",
    "fr": "satires fables westerns thrillers romances tragédies comédies mystères "
          "récits ballades mémoires sagas farces sonnets élégies énigmes",
    "es": "sátiras fábulas westerns thrillers romances tragedias comedias misterios "
          "crónicas baladas memorias sagas farsas sonetos elegías adivinanzas",
}
_INSTRUMENTS: Mapping[Language, str] = {
    "de": "Cello Flöte Trompete Banjo Oboe Harfe Klavier Geige "
          "Gitarre Dudelsack Klarinette Tuba Zither Mandoline Posaune Fagott",
    "fr": "violoncelle flûte trompette banjo hautbois harpe piano violon "
          "guitare cornemuse clarinette tuba cithare mandoline trombone basson",
    "es": "violonchelo flauta trompeta banjo oboe arpa piano violín "
          "guitarra gaita clarinete tuba cítara mandolina trombón fagot",
}
_PETS: Mapping[Language, str] = {
    "de": "Fuchs Papagei Schildkröte Frettchen Rabe Ziege Kaninchen Eidechse "
          "Igel Esel Kanarienvogel Windhund Salamander Taube Hamster Pfau",
    "fr": "renard perroquet tortue furet corbeau chèvre lapin lézard "
          "hérisson âne canari lévrier salamandre pigeon hamster paon",
    "es": "zorro loro tortuga hurón cuervo cabra conejo lagarto "
          "erizo burro canario galgo salamandra paloma hámster pavorreal",
}
VALUES: Mapping[Language, Mapping[str, str]] = {
    language: {english: other for pool, words in ((GENRES, _GENRES), (INSTRUMENTS, _INSTRUMENTS), (PETS, _PETS))
               for english, other in zip(pool, words[language].split(), strict=True)}
    for language in LANGUAGES}
"""Language -> English value -> its translation; what is missing is the same in all languages."""
