"""The home the commands speak of: its floors, areas and devices, and the texts the grammar leaves open."""

from __future__ import annotations

from collections.abc import Collection

from hassil.intents import TextSlotList

FLOORS = ["upstairs", "downstairs", "attic", "basement"]
AREAS = ["kitchen", "living room", "dining room", "bedroom", "bathroom", "office", "hallway", "nursery"]

NAMES = {
    "desk lamp": "light",
    "chandelier": "light",
    "nightstand": "light",
    "coffee maker": "switch",
    "space heater": "switch",
    "ceiling fan": "fan",
    "television": "media_player",
    "soundbar": "media_player",
    "record player": "media_player",
    "skylight": "cover",
    "patio awning": "cover",
    "front door": "lock",
    "back door": "lock",
    "lawn sprinkler": "valve",
    "thermostat": "climate",
    "rain gauge": "sensor",
    "movie night": "scene",
    "bedtime": "scene",
    "morning routine": "script",
    "doorbell": "button",
    "anna": "person",
    "ben": "person",
}
"""Each name's domain, which decides what can be asked of it: only a lock can be unlocked."""

OPEN_TEXTS = {
    "zone": ["home", "work", "school"],
    "timer_name": ["pizza", "pasta", "tea", "laundry", "homework", "workout", "bread", "nap"],
    "timer_command": ["turn off the lights", "open the skylight", "lock the front door", "start the coffee maker"],
}


def names_of(domains: Collection[str]) -> TextSlotList:
    values = [(name, name, {"domain": domain}) for name, domain in NAMES.items() if domain in domains]
    return TextSlotList.from_tuples(values, name="name")


def slot_lists() -> dict[str, TextSlotList]:
    plain = {"floor": FLOORS, "area": AREAS, **OPEN_TEXTS}
    return {
        "name": names_of(set(NAMES.values())),
        **{name: TextSlotList.from_strings(values, name=name) for name, values in plain.items()},
    }
