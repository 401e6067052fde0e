"""Small files of the evaluation tasks, in the forms in which their authors distribute them."""

import json
from pathlib import Path

LAMBADA = [
    "The keeper lit the lamp, and when the ship came home he put out the lamp",
    "She counted the gulls on the wall. There were nine, and then a tenth gull",
    "He wrote the hour in the book, the wind in the book, and his name in the book.",
    "A word that stands far away is what a window of a few tokens cannot hold: " + "so it is, " * 9
    + "far away",
    "Caf\u00e9 au lait, caf\u00e9 noir, and tea\u2014no more caf\u00e9",
    "alone",
    "The last word is a space ",
]  # fmt: skip
HELLASWAG = [
    ("Cleaning a lamp", "A man goes up the stairs.", "he", [
        "wipes the glass with a cloth.", "eats the glass [step] with a cloth.", "is a cloth.",
        "sings."], 0),
    ("Food", "[header] How to boil an egg [title] Take a pot. [step] Fill it  with water.", "", [
        "Heat the water, and wait.", "Throw the pot away.", "[substeps] Break it.", "Sleep ."], 1),
    ("Sailing", "A boat leaves the harbour.", "THE Captain", [
        "waves at the keeper.", "waves at the keeper, and at the gulls.", "sinks", "is a boat"], 3),
    ("Knitting", "Two women sit.", "they", ["knit.", "knit on.", "knit off.", "knit in."], 2),
]  # fmt: skip
WIKITEXT = """
 = The Lamp =

 The lamp was lit in 1 @,@ 821 , and the keeper 's book says : " it burns " . It stands ( as
 planned ) 3 @.@ 5 m high ; [ sic ] , he said . { none }

 = = The keeper = =

 He was a well @-@ known man , the others ' friend . ' A light ' , he wrote , at 40 \u00b0 N .

 = The Ship =

 No one saw the ship ! Did it sink ?

 = = = Log = = =

 N miles .
"""


def write(folder: Path) -> dict[str, Path]:
    """Write one file per task; return their paths by its name."""
    questions = [
        dict(ind=i, activity_label=activity, ctx_a=a, ctx_b=b, ctx=f"{a} {b}".strip(),
             split="val", split_type="indomain", label=label, endings=endings, source_id=f"s~{i}")
        for i, (activity, a, b, endings, label) in enumerate(HELLASWAG)
    ]  # fmt: skip
    contents = {
        "lambada": json_lines([{"text": text} for text in LAMBADA]),
        "hellaswag": json_lines(questions),
        "wikitext": WIKITEXT,
    }
    names = {"lambada": "test.jsonl", "hellaswag": "val.jsonl", "wikitext": "wiki.test.raw"}
    paths = {task: folder / f"{task}_{names[task]}" for task in names}
    for task, path in paths.items():
        path.write_text(contents[task], "utf-8")
    return paths


def json_lines(rows) -> str:
    """Return one object per line."""
    return "".join(json.dumps(row) + "\n" for row in rows)
