"""Count parameters and arithmetic of both presets, and rewrite the table in docs/paper-preset.md.

Run: python scripts/count_paper.py. Nothing is computed: networks and inputs are fake tensors, which know only shapes.
"""

from pathlib import Path

from patchscaler.imaging.geometry import Size
from patchscaler.measure.flops import count, shapes_alone
from patchscaler.presets import PAPER, TINY, build_networks

PAGE = Path(__file__).parents[1] / "docs" / "paper-preset.md"
BEGIN, END = "<!-- counts: begin -->\n", "<!-- counts: end -->\n"

SIDE = 1024  # pixels of the counted output: one megapixel of 2^20
LATENTS = SIDE // 8
# Name in the table, part whose parameters are told, count, what the count is divided by, and the unit.
ROWS = (
    ("autoencoder, encode", "autoencoder", "encode", 1, "output megapixel"),
    ("autoencoder, decode", "", "decode", 1, "output megapixel"),
    ("GRM", "restorer", "restore", LATENTS**2, "latent"),
    ("texture classifier", "texture_classifier", "classify", 1, "patch"),
    ("texture encoder", "texture_encoder", "encode_texture", 1, "patch"),
    ("Patch-DiT", "patch_dit", "denoise", 1, "patch and step"),
    ("Patch-DiT, texture keys and values", "", "keys", 1, "patch"),
)


def table() -> str:
    """The counts as Markdown."""
    lines = ["| preset | part | parameters | multiply-adds, millions | per |", "|---|---|---:|---:|---|"]
    for name, preset in (("tiny", TINY), ("paper", PAPER)):
        with shapes_alone():
            networks = build_networks(preset)._asdict()
        counted = count(networks, Size(SIDE // 4, SIDE // 4))
        for title, part, work, share, unit in ROWS:
            parameters = f"{sum(p.numel() for p in networks[part].parameters()):,}" if part else ""
            lines.append(f"| `{name}` | {title} | {parameters} | {counted[work] / share / 1e6:,.2f} | {unit} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    _, after = rest.split(END)
    PAGE.write_text(before + BEGIN + table() + END + after, encoding="utf-8")
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
