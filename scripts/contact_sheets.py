"""Draws the contact sheets of the docs: crops at 100 % of the same places of several folders of results.

    python scripts/contact_sheets.py REPORT -o docs/images --ref REPORT/hr \\
        --row "bicubic={condition}/bicubic" --row "GRM alone={condition}/restorer" \\
        --row "PatchScaler={condition}/patchscaler" --row "x4plus=PEERS/{condition}/x4plus"

REPORT is what `patchscaler evaluate --save REPORT` leaves. A row's folder is relative to the first argument unless it
is absolute; {condition} in it is that of the sheet; --columns breaks a row of pictures after so many.
"""

import argparse
import math
from pathlib import Path

import tomllib
from PIL import Image, ImageDraw, ImageFont

LABEL, GAP = 18, 4  # px


def draw(topic: dict, side: int, folders: dict[str, Path], columns: int) -> Image.Image:
    """One sheet: for each crop its places in all folders, labelled, on white."""
    lines = math.ceil(len(folders) / columns)
    width, height = columns * (side + GAP) - GAP, len(topic["crops"]) * lines * (side + LABEL + GAP) - GAP
    sheet = Image.new("RGB", (width, height), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for line, crop in enumerate(topic["crops"]):
        top, left = crop["place"]
        for number, (label, folder) in enumerate(folders.items()):
            row, column = divmod(number, columns)
            x, y = column * (side + GAP), (line * lines + row) * (side + LABEL + GAP)
            with Image.open(folder / f"{crop['picture']}.png") as picture:
                part = picture.convert("RGB").crop((left, top, left + side, top + side))
            pen.text((x + 1, y + 1), label, fill="black", font=font)
            sheet.paste(part, (x, y + LABEL))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--ref", type=Path, required=True)
    parser.add_argument("--row", action="append", required=True, metavar="LABEL=FOLDER")
    parser.add_argument("--crops", type=Path, default=Path("configs/sheets.toml"))
    parser.add_argument("--columns", type=int, default=3)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    table = tomllib.loads(arguments.crops.read_text())
    rows = [row.partition("=") for row in arguments.row]
    for topic in table["topics"]:
        folders = {label: arguments.results / row.format_map(topic) for label, _, row in rows}
        folders["truth"] = arguments.ref
        path = arguments.output / f"sheet-{topic['name']}.webp"
        draw(topic, table["side"], folders, arguments.columns).save(path, quality=92, method=6)
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
