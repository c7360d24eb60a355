"""Write the GTSRB rules files from the sign designs: which shape, colour and content each sign shows.

``gtsrb12.yaml`` is COLEP's setting: 12 classes, 13 concepts, 30 rules in three circuits. ``gtsrb43.yaml`` covers all
43 classes; its table below is our own reading of the sign designs (Vienna convention, German StVO plates).

Usage: python benchmarks/gtsrb/make_rules.py
"""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent
DEMO = HERE.parents[1] / "neurosym" / "demo"

CLASSES12 = [
    "stop",
    "priority_road",
    "yield",
    "construction",
    "keep_right",
    "turn_left",
    "do_not_enter",
    "no_vehicles",
    "limit_50",
    "end_of_limits",
    "limit_20",
    "limit_120",
]

# concept -> (circuit, positions of the classes that show it)
CONCEPTS12 = {
    "octagon": ("shape", [0]),
    "diamond": ("shape", [1]),
    "triangle": ("shape", [2, 3]),
    "circle": ("shape", [4, 5, 6, 7, 8, 9, 10, 11]),
    "blank": ("content", [2, 7]),
    "red": ("colour", [0, 2, 3, 6, 7, 8, 10, 11]),
    "blue": ("colour", [4, 5]),
    "grey": ("colour", [9]),
    "digits_50": ("content", [8]),
    "digits_20": ("content", [10]),
    "digits_120": ("content", [11]),
    "arrow_keep_right": ("content", [4]),
    "arrow_left": ("content", [5]),
}

# class id: (name, shape, colour, contents). Colours name the characteristic paint: red_rim (white or red ground with a
# red border), red_ground (filled red), blue_ground, yellow_ground, grey (black and white only).
SIGNS43 = {
    0: ("limit_20", "circle", "red_rim", "digits d20"),
    1: ("limit_30", "circle", "red_rim", "digits d30"),
    2: ("limit_50", "circle", "red_rim", "digits d50"),
    3: ("limit_60", "circle", "red_rim", "digits d60"),
    4: ("limit_70", "circle", "red_rim", "digits d70"),
    5: ("limit_80", "circle", "red_rim", "digits d80"),
    6: ("end_limit_80", "circle", "grey", "digits d80 slash"),
    7: ("limit_100", "circle", "red_rim", "digits d100"),
    8: ("limit_120", "circle", "red_rim", "digits d120"),
    9: ("no_passing", "circle", "red_rim", "cars"),
    10: ("no_passing_trucks", "circle", "red_rim", "cars truck"),
    11: ("right_of_way", "triangle", "red_rim", "crossing"),
    12: ("priority_road", "diamond", "yellow_ground", "blank"),
    13: ("yield", "inverted_triangle", "red_rim", "blank"),
    14: ("stop", "octagon", "red_ground", "word"),
    15: ("no_vehicles", "circle", "red_rim", "blank"),
    16: ("no_trucks", "circle", "red_rim", "truck"),
    17: ("no_entry", "circle", "red_ground", "bar"),
    18: ("general_caution", "triangle", "red_rim", "exclamation"),
    19: ("curve_left", "triangle", "red_rim", "bend left"),
    20: ("curve_right", "triangle", "red_rim", "bend right"),
    21: ("double_curve", "triangle", "red_rim", "bend"),
    22: ("bumpy_road", "triangle", "red_rim", "bumps"),
    23: ("slippery_road", "triangle", "red_rim", "cars skid"),
    24: ("road_narrows", "triangle", "red_rim", "narrowing right"),
    25: ("road_work", "triangle", "red_rim", "person worker"),
    26: ("traffic_signals", "triangle", "red_rim", "lights"),
    27: ("pedestrians", "triangle", "red_rim", "person walker"),
    28: ("children", "triangle", "red_rim", "person pair"),
    29: ("bicycles", "triangle", "red_rim", "bicycle"),
    30: ("ice_snow", "triangle", "red_rim", "snowflake"),
    31: ("wild_animals", "triangle", "red_rim", "animal"),
    32: ("end_all_limits", "circle", "grey", "slash blank"),
    33: ("turn_right_ahead", "circle", "blue_ground", "arrow right"),
    34: ("turn_left_ahead", "circle", "blue_ground", "arrow left"),
    35: ("ahead_only", "circle", "blue_ground", "arrow straight"),
    36: ("straight_or_right", "circle", "blue_ground", "arrow straight right"),
    37: ("straight_or_left", "circle", "blue_ground", "arrow straight left"),
    38: ("keep_right", "circle", "blue_ground", "arrow right diagonal"),
    39: ("keep_left", "circle", "blue_ground", "arrow left diagonal"),
    40: ("roundabout", "circle", "blue_ground", "arrow ring"),
    41: ("end_no_passing", "circle", "grey", "cars slash"),
    42: ("end_no_passing_trucks", "circle", "grey", "cars truck slash"),
}


def document(title: str, classes: list[str], concepts: list[str], rules: list[tuple[str, str, str]]) -> str:
    """YAML text; ``rules`` are (class, concept, circuit)."""
    lines = [f"# {title}", f"classes: [{', '.join(classes)}]", f"concepts: [{', '.join(concepts)}]", "rules:"]
    lines += [f"  - {name} -> {concept}" for name, concept, _ in rules]
    lines.append("circuits:")
    for circuit in ("shape", "content", "colour"):
        members = [str(i) for i, rule in enumerate(rules) if rule[2] == circuit]
        lines.append(f"  {circuit}: {{rules: [{', '.join(members)}]}}")
    return "\n".join(lines) + "\n"


def gtsrb12() -> str:
    rules = [(CLASSES12[c], name, circuit) for name, (circuit, members) in CONCEPTS12.items() for c in members]
    return document(
        "GTSRB-12: the twelve classes, thirteen concepts and thirty rules of COLEP.",
        CLASSES12,
        list(CONCEPTS12),
        rules,
    )


def gtsrb43() -> str:
    shapes = ["triangle", "inverted_triangle", "circle", "octagon", "diamond"]
    colours = ["red_rim", "red_ground", "blue_ground", "yellow_ground", "grey"]
    contents = list(dict.fromkeys(word for sign in SIGNS43.values() for word in sign[3].split()))
    rules = []
    for name, shape, colour, content in SIGNS43.values():
        rules += [(name, shape, "shape"), (name, colour, "colour")]
        rules += [(name, word, "content") for word in content.split()]
    return document(
        "GTSRB-43: all classes; shape, colour and content read off the sign designs.",
        [s[0] for s in SIGNS43.values()],
        shapes + colours + contents,
        rules,
    )


if __name__ == "__main__":
    (DEMO / "rules.yaml").write_text(gtsrb12())
    (HERE / "gtsrb12.yaml").write_text(gtsrb12())
    (HERE / "gtsrb43.yaml").write_text(gtsrb43())
    print("wrote gtsrb12.yaml, gtsrb43.yaml and the demo's rules.yaml")
