"""Plain English from parts: notes of a small town's archive, questions about them, and requests to
an assistant.

Every text is a function of its random stream. Names, dates and numbers make the texts differ.
"""

from __future__ import annotations

from random import Random


def listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


FIRST = listed("Marta, Jonas, Aisha, Pavel, Ingrid, Tomas, Leila, Viktor, Nadia, Oscar, Helena, Samir, Greta, Emil, Rosa, Henrik")
LAST = listed("Lindqvist, Okafor, Brandt, Moreau, Haddad, Novak, Sorensen, Castillo, Petrov, Whitfield, Tanaka, Abbott, Rossi, Keller")
TOWN = listed("Lisbon, Bergen, Prague, Dublin, Porto, Tallinn, Geneva, Krakow, Ghent, Trieste, Malmo, Cork, Basel, Riga, Turin, Graz")
TRADE = listed("surveyor, printer, botanist, engineer, teacher, pilot, merchant, clockmaker, translator, geologist, baker, physician")
THING = listed(
    """the iron bridge, the reading room, the tide mill, the glass workshop, the night ferry, the old observatory, the post office,
    the weather station, the grain market, the canal lock, the botanical garden, the railway yard, the lighthouse, the brewery"""
)
REASON = listed(
    """because the spring floods had damaged the foundations, after two years of argument in the council,
    although the money had already been promised elsewhere, while the harbour was closed for repairs,
    so that the schools could use it in winter, when the last of the founders retired, as the price of coal kept rising"""
)
TASK = listed(
    """Plan a weekend visit to {thing}, Explain how {thing} was paid for, Write a short speech about {person},
    Compare {town} and {other} as places to open a workshop, Summarise what {person} wrote about {thing},
    List three reasons why {thing} should stay open, Draft a letter to {person} about the accounts of {year},
    Describe a day in the life of a {trade} in {town}"""
)
SENTENCES = (
    "In {year} {person}, a {trade} from {town}, was asked to look after {thing} {reason}.",
    "The first estimate came to {number} crowns, of which {town} paid less than a third.",
    "{person} kept a diary of the work and noted on page {number} that nobody had measured the water since {year}.",
    "By the summer of {year} {thing} employed {number} people, most of them from {town} and {other}.",
    "A letter to the mayor of {other} complains that {thing} was opened too early, {reason}.",
    "Nobody in {town} remembers why {person} left, but the records mention a {trade} and a debt of {number} crowns.",
    "Visitors who came by train from {other} usually saw {thing} first and the town only afterwards.",
    "When {thing} was rebuilt in {year}, the council ordered {number} new windows and a better roof.",
    "{person} and {another} disagreed about the plans, {reason}, and the newspaper printed both opinions.",
    "The inventory of {year} lists {number} books, four maps, a broken telescope and the portrait of a {trade}.",
    "It took the {trade} {number} days to walk from {town} to {other} with the instruments on a cart.",
    "Later reports are shorter: {thing} is mentioned once, between the harvest and the price of salt in {town}.",
)


def _filled(text: str, deal: Random) -> str:
    town, other = deal.sample(TOWN, 2)
    return text.format(
        person=person(deal),
        another=person(deal),
        town=town,
        other=other,
        trade=deal.choice(TRADE),
        thing=deal.choice(THING),
        reason=deal.choice(REASON),
        year=deal.randint(1841, 1986),
        number=deal.randint(12, 940),
    )


def person(deal: Random) -> str:
    return f"{deal.choice(FIRST)} {deal.choice(LAST)}"


def sentence(deal: Random) -> str:
    text = _filled(deal.choice(SENTENCES), deal)
    return text[0].upper() + text[1:]


def paragraphs(deal: Random, n_sentences: int) -> str:
    return "".join(sentence(deal) + ("\n\n" if i % 6 == 5 else " ") for i in range(n_sentences))


def question(deal: Random) -> str:
    """Two notes, a question about them, and four possible answers."""
    towns = deal.sample(TOWN, 4)
    who, trade, year = person(deal), deal.choice(TRADE), deal.randint(1841, 1986)
    options = "".join(f"{letter}. {town}\n" for letter, town in zip("ABCD", towns, strict=True))
    return f"{sentence(deal)} {sentence(deal)}\nQuestion: In which town did the {trade} {who} settle in {year}?\n{options}Answer:"


def approach(deal: Random, number: int) -> str:
    return f"\n\nApproach {number}, by {person(deal)}, begins with {deal.choice(THING)} {deal.choice(REASON)}. The plan in one paragraph:"


def request(deal: Random) -> str:
    """A user's request: a task and its reason."""
    return f"{_filled(deal.choice(TASK), deal)}. {sentence(deal)} {sentence(deal)}"
