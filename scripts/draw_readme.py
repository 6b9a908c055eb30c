"""Draws docs/images/parrot.png: input, result and qmap of the bundled model. Run: python scripts/draw_readme.py"""

from pathlib import Path

from PIL import Image

from patchscaler import PatchScalerPipeline
from patchscaler.imaging.qmap import draw_qmap
from patchscaler.imaging.sources import picture_from

ROOT = Path(__file__).parents[1]


def main() -> None:
    picture = Image.open(ROOT / "examples" / "noisy_parrot.png").convert("RGB")
    result = PatchScalerPipeline.from_pretrained()(picture)
    large = picture.resize((picture.width * 4, picture.height * 4), Image.Resampling.BICUBIC)
    names = list(result.report.patches)
    qmap = draw_qmap(picture_from(large).pixels, result.groups.flatten().numpy(), result.patch_boxes, names)
    strip = Image.new("RGB", (3 * large.width + 16, qmap.height), "white")
    for column, part in enumerate((large, result.images[0], qmap)):
        strip.paste(part, (column * (large.width + 8), 0))
    (ROOT / "docs" / "images").mkdir(parents=True, exist_ok=True)
    strip.save(ROOT / "docs" / "images" / "parrot.png")


if __name__ == "__main__":
    main()
