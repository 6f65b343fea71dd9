"""Rows for the starter model's worlds and for the pilots: made on the spot, each from a seed."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "examples" / "smart-home"
Row = dict[str, Any]

CAPITALS = """Afghanistan Kabul|Albania Tirana|Algeria Algiers|Angola Luanda|Argentina Buenos_Aires|Armenia Yerevan
Australia Canberra|Austria Vienna|Azerbaijan Baku|Bahrain Manama|Bangladesh Dhaka|Belarus Minsk|Belgium Brussels
Belize Belmopan|Benin Porto-Novo|Bhutan Thimphu|Bolivia Sucre|Botswana Gaborone|Brazil Brasilia|Bulgaria Sofia
Burkina_Faso Ouagadougou|Burundi Gitega|Cambodia Phnom_Penh|Cameroon Yaounde|Canada Ottawa|Chad N'Djamena
Chile Santiago|China Beijing|Colombia Bogota|Comoros Moroni|Croatia Zagreb|Cuba Havana|Cyprus Nicosia|Denmark Copenhagen
Dominica Roseau|Ecuador Quito|Egypt Cairo|Eritrea Asmara|Estonia Tallinn|Eswatini Mbabane|Ethiopia Addis_Ababa|Fiji Suva
Finland Helsinki|France Paris|Gabon Libreville|Gambia Banjul|Georgia Tbilisi|Germany Berlin|Ghana Accra|Greece Athens
Grenada St._George's|Guinea Conakry|Guyana Georgetown|Haiti Port-au-Prince|Honduras Tegucigalpa|Hungary Budapest
Iceland Reykjavik|India New_Delhi|Indonesia Jakarta|Iran Tehran|Iraq Baghdad|Ireland Dublin|Israel Jerusalem|Italy Rome
Jamaica Kingston|Japan Tokyo|Jordan Amman|Kazakhstan Astana|Kenya Nairobi|Kiribati Tarawa|Kyrgyzstan Bishkek
Laos Vientiane|Latvia Riga|Lebanon Beirut|Lesotho Maseru|Liberia Monrovia|Libya Tripoli|Liechtenstein Vaduz
Lithuania Vilnius|Madagascar Antananarivo|Malawi Lilongwe|Malaysia Kuala_Lumpur|Maldives Male|Mali Bamako|Malta Valletta
Mauritania Nouakchott|Mauritius Port_Louis|Moldova Chisinau|Mongolia Ulaanbaatar|Montenegro Podgorica|Morocco Rabat
Mozambique Maputo|Myanmar Naypyidaw|Namibia Windhoek|Nauru Yaren|Nepal Kathmandu|Netherlands Amsterdam
Nicaragua Managua|Niger Niamey|Nigeria Abuja|Norway Oslo|Oman Muscat|Pakistan Islamabad|Palau Ngerulmud
Paraguay Asuncion|Peru Lima|Philippines Manila
Poland Warsaw|Portugal Lisbon|Qatar Doha|Romania Bucharest|Russia Moscow|Rwanda Kigali
Samoa Apia|Senegal Dakar|Serbia Belgrade|Seychelles Victoria|Slovakia Bratislava|Slovenia Ljubljana|Somalia Mogadishu
Spain Madrid|Sudan Khartoum|Suriname Paramaribo|Sweden Stockholm|Switzerland Bern|Syria Damascus|Taiwan Taipei
Tajikistan Dushanbe|Tanzania Dodoma|Thailand Bangkok|Togo Lome|Tonga Nuku'alofa|Tunisia Tunis|Turkey Ankara
Turkmenistan Ashgabat|Tuvalu Funafuti|Uganda Kampala|Ukraine Kyiv|Uruguay Montevideo|Uzbekistan Tashkent
Vanuatu Port_Vila|Venezuela Caracas|Vietnam Hanoi|Yemen Sanaa|Zambia Lusaka|Zimbabwe Harare"""

CONTAINS = [{"type": "string_check", "name": "contains", "operation": "ilike"}]
EXACT = [{"type": "string_check"}]
JSON = [{"type": "json_match"}, {"type": "json_match", "name": "json_fields", "partial": True}]


def chat(question: str, answer: str, system: str | None = None, **fields: str) -> Row:
    head = [{"role": "system", "content": system}] if system else []
    return {
        "messages": [*head, {"role": "user", "content": question}, {"role": "assistant", "content": answer}],
        **fields,
    }


def smart_home(count: int, seed: int) -> list[Row]:
    """A part of the demo's training rows; the demo's recipe makes them where they are not there yet."""
    path = DEMO / "data" / "train.jsonl"
    if not path.exists():
        subprocess.run([sys.executable, str(DEMO / "make_data.py")], check=True)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return random.Random(seed).sample(rows, count)


def capitals(count: int, seed: int) -> list[Row]:
    """Each with the line of an atlas in which the answer stands."""
    pairs = [pair.split(" ") for pair in CAPITALS.replace("\n", "|").split("|")]
    places = [(country.replace("_", " "), city.replace("_", " ")) for country, city in pairs]
    rows = [
        chat(f"What is the capital of {country}?", city, context=f"{country}: the capital city of {country} is {city}.")
        for country, city in places
    ]
    return random.Random(seed).sample(rows, min(count, len(rows)))


def products(count: int, seed: int) -> list[Row]:
    rng = random.Random(seed)
    pairs = [(rng.randint(100, 999), rng.randint(100, 999)) for _ in range(count)]
    return [chat(f"What is {a} times {b}? Answer with the number only.", str(a * b)) for a, b in pairs]


def dates(count: int, seed: int) -> list[Row]:
    """Dates as people write them, to ISO 8601."""
    rng, rows = random.Random(seed), []
    for _ in range(count):
        day = date(1950, 1, 1) + timedelta(days=rng.randrange(30_000))
        text = rng.choice(
            [f"{day:%d %B %Y}", f"{day:%B} {day.day}, {day.year}", f"{day:%d.%m.%Y}", f"{day:%A, %d %b %Y}"]
        )
        rows.append(chat(text, day.isoformat(), "Write the date as the house does."))
    return rows


def tickets(count: int, seed: int) -> list[Row]:
    """Trouble reports to the house's codes."""
    things = {"printer": "PRN", "network": "NET", "password": "IAM", "screen": "DSP", "phone": "TEL", "door": "FAC"}
    moods = {"urgent, nobody can work": "1", "annoying": "2", "whenever you have time": "3"}
    rng, rows = random.Random(seed), []
    for _ in range(count):
        thing, mood, floor = rng.choice(list(things)), rng.choice(list(moods)), rng.randrange(1, 30)
        text = rng.choice([f"The {thing} on floor {floor} is broken, {mood}.",
                           f"Floor {floor}: {thing} does not work. {mood.capitalize()}.",
                           f"{mood.capitalize()}: could somebody see to the {thing} on {floor}?"])  # fmt: skip
        rows.append(chat(text, f"{things[thing]}|{moods[mood]}|F{floor:02d}", "File the ticket."))
    return rows


def orders(count: int, seed: int) -> list[Row]:
    """Orders in words to JSON with a price that has to be worked out."""
    prices = {"tea": 3, "coffee": 4, "soup": 6, "cake": 5}
    rng, rows = random.Random(seed), []
    for _ in range(count):
        thing, number, table = rng.choice(list(prices)), rng.randrange(1, 10), rng.randrange(1, 40)
        answer = {"item": thing, "n": number, "table": table, "total": number * prices[thing]}
        rows.append(chat(f"{number} {thing} for table {table}, please", json.dumps(answer), "Write the order as JSON."))
    return rows


def initials(count: int, seed: int) -> list[Row]:
    """Full names to the house's abbreviations: the family name in capitals, then the initials in reverse order."""
    given = ["Anna", "Boris", "Clara", "David", "Emil", "Freya", "Georg", "Hanna", "Igor", "Julia", "Karl", "Lena"]
    family = ["Schmidt", "Moreau", "Rossi", "Nowak", "Larsen", "Horvat", "Silva", "Novak", "Weber", "Keller", "Baum"]
    rng, rows = random.Random(seed), []
    for number in range(count):
        names = rng.sample(given, rng.choice([1, 2, 3]))
        last, room = rng.choice(family), number * 7 % 900 + 100
        answer = f"{last.upper()}, {'.'.join(name[0] for name in reversed(names))}. ({room})"
        rows.append(chat(f"{' '.join(names)} {last}, room {room}", answer, "Abbreviate as the house does."))
    return rows


def write(path: Path, rows: list[Row]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path
