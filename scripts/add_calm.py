"""Gives a restorer a second, calmer set of weights for places where it is at a loss (`calm_limit` of ConvRestorer).

    python scripts/add_calm.py RESTORER PUBLISHED AUTOENCODER -o OUT [--share 0.3] [--limit -0.5]

The calm weights are RESTORER's, mixed with a share of the network that its training began from: PUBLISHED, the file of
a compact Real-ESRGAN network or the folder of a restorer. AUTOENCODER is the folder of the one they restore for.
"""

import argparse
from pathlib import Path

import torch

from patchscaler.models.autoencoder import DctAutoencoder
from patchscaler.models.restorer import ConvRestorer
from patchscaler.training.common import load_frozen
from patchscaler.training.compact import read_compact, restorer_from_compact


@torch.no_grad()
def with_calm(restorer: ConvRestorer, published: ConvRestorer, share: float, limit: float) -> ConvRestorer:
    """A copy of `restorer` that turns to a mix with `share` of `published` around the mean log error `limit`."""
    own, other = restorer.state_dict(), published.state_dict()
    config = {key: value for key, value in restorer.config.items() if not key.startswith("_")}
    made = ConvRestorer(**config | {"calm_limit": limit})
    calm = {f"calm.{name}": torch.lerp(own[name], other[name], share) for name in other}
    made.load_state_dict({name: value for name, value in own.items() if not name.startswith("calm.")} | calm)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("restorer")
    parser.add_argument("published")
    parser.add_argument("autoencoder")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--share", type=float, default=0.3, help="of the published weights, 0 to 1")
    parser.add_argument("--limit", type=float, default=-0.5, help="mean log error")
    arguments = parser.parse_args()
    if Path(arguments.published).is_file():
        autoencoder = load_frozen(DctAutoencoder, arguments.autoencoder)
        published = restorer_from_compact(read_compact(Path(arguments.published)), autoencoder)
    else:
        published = load_frozen(ConvRestorer, arguments.published)
    made = with_calm(load_frozen(ConvRestorer, arguments.restorer), published, arguments.share, arguments.limit)
    made.save_pretrained(arguments.output)
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
