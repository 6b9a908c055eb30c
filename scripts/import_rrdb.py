"""Makes a second restorer of a published RRDB network x4, such as Real-ESRGAN x4plus.

    python scripts/import_rrdb.py RealESRGAN_x4plus.pth OUT --autoencoder FOLDER

The file is the authors' checkpoint; FOLDER holds the autoencoder whose latents it shall make.
"""

import argparse
from pathlib import Path

from patchscaler.models.autoencoder import DctAutoencoder
from patchscaler.training.frozen import load_frozen
from patchscaler.training.published import read_rrdb, restorer_from_rrdb


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("output")
    parser.add_argument("--autoencoder", required=True)
    arguments = parser.parse_args()
    autoencoder = load_frozen(DctAutoencoder, arguments.autoencoder)
    made = restorer_from_rrdb(read_rrdb(arguments.checkpoint), autoencoder).half()
    made.save_pretrained(arguments.output)
    print(f"wrote {arguments.output}: {sum(p.numel() for p in made.parameters()):,} parameters")


if __name__ == "__main__":
    main()
