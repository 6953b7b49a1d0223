"""The fixed facts of the invented shop Fernhill: what it sells, what breaks, who writes to it.

Knows no grammar and no chance: every table is the same in every corpus, so a model can learn it.
"""

from __future__ import annotations

from typing import NamedTuple

SHOP = "Fernhill"


class Problem(NamedTuple):
    """Something that goes wrong: `it {symptom}`, `because of {cause}`, `please {remedy}`."""

    symptom: str
    cause: str
    remedy: str


class Product(NamedTuple):
    """One article of the catalogue; price in euros, weight in grams, warranty in years."""

    name: str
    kind: str
    price: str
    grams: str
    colours: tuple[str, str]
    years: str
    launched: str
    country: str
    material: str
    feature: str


_PRODUCTS = """
Norvik|kettle|49|920|white, black|2|2021|Portugal|brushed steel|a quiet boil mode
Palomar|kettle|79|1150|copper, grey|3|2023|Austria|thick glass|five temperature steps
Larkspur|desk lamp|39|1400|green, white|2|2020|Poland|painted aluminium|a dimmer with a memory
Halden|desk lamp|65|1850|black, brass|5|2022|Denmark|solid oak|a warm evening light
Quillon|keyboard|89|780|grey, blue|3|2021|Taiwan|recycled plastic|silent keys
Tessera|keyboard|129|960|black, sand|2|2024|Japan|milled aluminium|keys that can be swapped by hand
Murmur|headset|119|260|black, cream|2|2022|Finland|soft leather|noise cancelling
Corvid|headset|59|210|blue, red|1|2023|Vietnam|woven fabric|a folding frame
Ironbark|backpack|95|1100|olive, navy|10|2019|Nepal|waxed canvas|a hidden laptop sleeve
Skerry|backpack|69|740|yellow, grey|5|2023|Portugal|recycled nylon|a rain cover in the base
Galewind|tent|249|2600|green, orange|3|2020|Estonia|ripstop nylon|poles that unfold by themselves
Saltmarsh|tent|189|3100|sand, blue|2|2022|Latvia|blended cotton|a porch for two bicycles
Ember|coffee grinder|99|1700|black, red|2|2021|Italy|cast iron|forty grind settings
Kestrel|coffee grinder|45|640|silver, green|3|2024|Slovenia|walnut wood|a handle that folds away
Firefly|bicycle light|29|85|black, white|2|2022|Germany|hard rubber|a brake signal
Beacon|bicycle light|55|140|silver, black|4|2020|Netherlands|cast magnesium|a beam for dark roads
Ripple|blender|85|2900|white, red|2|2021|Spain|tempered glass|a soup programme
Zephyr|blender|35|1200|mint, grey|1|2024|Hungary|clear plastic|a bottle to take along
Meridian|watch|199|62|silver, black|3|2023|Switzerland|polished steel|a map that works offline
Pinnacle|watch|149|48|orange, grey|2|2022|Canada|carbon fibre|a storm alarm
Lattice|router|109|520|white, black|3|2021|Sweden|matt plastic|a guest network button
Harbour|router|159|710|grey, teal|5|2024|Ireland|folded steel|a backup line over mobile data
Drumlin|speaker|139|1900|walnut, black|4|2020|Scotland|beech wood|a deep bass at low volume
Cadence|speaker|75|560|red, blue|2|2023|Mexico|knitted wool|a strap for the shower
Vesper|camera|329|430|black, tan|2|2022|Japan|brushed titanium|a night mode without flash
Aperture|camera|219|390|white, green|3|2024|Thailand|textured rubber|a viewfinder that tilts
Thistle|vacuum cleaner|179|4200|purple, grey|3|2021|Turkey|sturdy plastic|a brush for pet hair
Gannet|vacuum cleaner|259|3600|white, blue|5|2023|Norway|light alloy|a bag that seals itself
"""

_PROBLEMS = """
kettle|leaks at the base|a worn seal|tighten the ring under the base
kettle|does not switch off when the water boils|scale on the steam sensor|brush the steam vent clean
kettle|smells of plastic|a thin film left from production|boil it three times with vinegar
kettle|trips the fuse in the kitchen|moisture in the plug|let the plug dry for a whole day
desk lamp|flickers in the evening|a loose bulb|turn the bulb firmly to the right
desk lamp|gets too hot to touch|a blocked air slot|free the air slots from dust
desk lamp|sinks down slowly|a slack joint|tighten the screw at the joint with a coin
desk lamp|hums when it is dimmed|an old wall dimmer|plug it straight into a wall socket
keyboard|repeats letters|crumbs under the keys|blow air under the keys
keyboard|loses its connection|a weak battery|charge it for three hours
keyboard|has a space bar that sticks|a bent clip|lift the space bar and press the clip flat
keyboard|types the wrong symbols|the wrong language setting|hold the two shift keys for five seconds
headset|crackles on the left side|a loose plug|clean the plug with a dry cloth
headset|does not pair with the phone|an old pairing in its memory|hold the power key for ten seconds
headset|presses on the ears|a headband that is set too tight|pull the headband out by two steps
headset|drops calls|old software|install the update from our support page
backpack|has a zip that jams|sand between the teeth|rub the zip with a candle
backpack|lets the rain in|a seam without wax|wax the seams and let them dry
backpack|has a torn strap|a weak thread|stop loading it and send us a photo of the strap
backpack|squeaks while walking|dry buckles|put a drop of oil on the buckles
tent|drips in the morning|water that condenses inside|open both vents at night
tent|has a broken pole|a frozen joint|slide the repair sleeve over the pole
tent|does not fit into its bag|air that is trapped in the fabric|roll it from the closed end
tent|sways in the wind|loose guy lines|peg out all eight guy lines
coffee grinder|grinds unevenly|a burr that is worn on one side|turn the upper burr by half a turn
coffee grinder|gets stuck|oily beans|run a handful of dry rice through it
coffee grinder|spills powder on the table|static charge|add one drop of water to the beans
coffee grinder|is louder than before|a loose foot|screw the rubber feet in by hand
bicycle light|goes out on bumpy roads|a weak spring|bend the contact spring up a little
bicycle light|does not charge|dirt in the charging port|clean the port with a wooden pick
bicycle light|slips down the handlebar|a smooth rubber band|wrap the bar once with tape
bicycle light|blinks all the time|the travel lock|press the button twice
blender|stops after a few seconds|the heat guard of the motor|let it cool for twenty minutes
blender|leaks onto the counter|a twisted gasket|take out the gasket and lay it in flat
blender|leaves lumps|a blunt blade|add liquid first and frozen fruit last
blender|smells burnt|an overfilled jar|fill the jar to the half only
watch|shows the wrong time|a time zone that was not updated|open the map once under free sky
watch|loses power overnight|a background map|switch the map off before you sleep
watch|does not count steps|a strap that is too loose|close the strap one hole tighter
watch|has a foggy glass|a cooled seal|leave it in dry rice for one night
router|drops the connection every evening|a crowded channel|choose channel eleven in the settings
router|blinks red|a line that is not in sync|pull the plug for thirty seconds
router|is slow upstairs|a thick ceiling|move it to the stairs
router|forgets its password|a failed update|press the small key at the back for ten seconds
speaker|rattles at high volume|a loose front cover|press the cover in at all four corners
speaker|switches itself off|the sleep timer|turn the sleep timer off in the menu
speaker|does not play in stereo|a mono setting|hold the two volume keys together
speaker|sounds dull|a foil that was left on the front|peel the foil from the front
camera|takes blurry pictures|a smudged lens|wipe the lens from the middle outwards
camera|does not read the card|an old card format|format the card inside the camera
camera|has a stuck shutter|cold grease|warm it in your hands for ten minutes
camera|loses its date|an empty backup cell|leave it on the charger for one night
vacuum cleaner|has lost its suction|a full filter|wash the filter with cold water
vacuum cleaner|whistles loudly|a crack in the hose|close the crack with strong tape
vacuum cleaner|does not roll up its cord|a twisted cord|pull the cord out fully and press the pedal
vacuum cleaner|smells of dust|an old bag|change the bag and the fleece
any|arrived with a scratch|a rough ride in the van|send us one photo of the scratch
any|came in the wrong colour|a mix-up in our warehouse|keep the box closed until the courier comes
any|arrived five days late|a strike at the parcel depot|check the date on the parcel label
any|has not arrived yet|a wrong post code on the label|confirm your address in one line
any|came without its manual|a hurried packing shift|download the manual from our support page
any|was charged twice|a fault in the payment system|send us the two lines of your bank statement
"""

_FIRST_NAMES = """
Mara Ilse Tomas Noor Ravi Anouk Bela Chidi Dalia Emil Farah Goran Hana Ivo Jonas Kaya Leif Mina
Nils Olga Petra Quinn Rosa Sami Tilda Umar Vera Wim Xenia Yusuf Zofia Aino Bruno Clara Dmitri
Elif Femke Greta Hugo Ines Jasper Kofi Lucia Mateo Nadia Oskar Priya Rafael Selma Anika Rahul
Meera Soren Tara Viktor Wanda Yara Pablo Edith Arun Carla
"""
_LAST_NAMES = """
Lindqvist Okafor Moreau Tanaka Haddad Bauer Kowalski Rossi Silva Novak Petrov Larsen Banerjee
Demir Costa Fischer Jansen Ivanov Keller Laine Mendes Nowak Olsen Pereira Quist Romano Sato
Torres Ueda Vidal Weber Yilmaz Zeller Adeyemi Brandt Castro Dvorak Eriksen Ferrari Gruber Holm
Ito Jovanovic Kaplan Lopez Mueller Nair Ortega Popov Reyes Schmid Toth Varga Wolff
"""
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
TOWNS = ("Ashford", "Brindle", "Corran", "Dunmore", "Elswick", "Farrow", "Glenby", "Hexton")


def _products() -> tuple[Product, ...]:
    rows = []
    for line in _PRODUCTS.strip().splitlines():
        name, kind, price, grams, colours, *rest = line.split("|")
        first, second = colours.split(", ")
        rows.append(Product(name, kind, price, grams, (first, second), *rest))
    return tuple(rows)


def _problems() -> dict[str, tuple[Problem, ...]]:
    table: dict[str, list[Problem]] = {}
    for line in _PROBLEMS.strip().splitlines():
        kind, *fields = line.split("|")
        table.setdefault(kind, []).append(Problem(*fields))
    return {kind: tuple(problems) for kind, problems in table.items()}


PRODUCTS = _products()
PROBLEMS = _problems()
FIRST_NAMES = tuple(_FIRST_NAMES.split())
LAST_NAMES = tuple(_LAST_NAMES.split())
