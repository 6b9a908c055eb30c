"""Calibration of eta, the difficulty scale of the confidence map (Eq. 1), on validation pictures."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from patchscaler.data.pairs import CONDITIONS, PairSettings, validation_pairs
from patchscaler.errors import ConfigError
from patchscaler.imaging.geometry import Size
from patchscaler.imaging.tiles import PatchGrid, pad_to_patch, split
from patchscaler.models.fusion import Fusion
from patchscaler.models.grm import GlobalRestoration
from patchscaler.models.restorer import confidence_from
from patchscaler.models.rrdb import RrdbRestorer
from patchscaler.pgs.groups import GroupConfig, assign_groups
from patchscaler.training.frozen import any_device, load_autoencoder, load_frozen, load_restorer


@torch.no_grad()
def patch_log_errors(grm: GlobalRestoration, pictures: str, conditions: Sequence[str], patch: int = 16) -> Tensor:
    """Log error maps (B,1,V,V) of all patches of the folder's pictures under these degradations."""
    maps, device = [], next(grm.restorer.parameters()).device
    for condition in conditions:
        if condition not in CONDITIONS:
            raise ConfigError(f'condition "{condition}": choose from {", ".join(CONDITIONS)}')
        for pair in validation_pairs(pictures, 0, condition):
            log_error = pad_to_patch(grm(pair["lr"].to(device)).log_error.cpu(), patch)
            maps.append(split(log_error, PatchGrid(Size(*log_error.shape[-2:]), patch, patch)))
    return torch.cat(maps)


def group_shares(log_errors: Tensor, eta: float) -> tuple[float, float, float]:
    """Shares of simple, medium and hard patches at this eta."""
    groups = assign_groups(confidence_from(log_errors, eta).mean(dim=(1, 2, 3)), GroupConfig().gammas)
    return tuple((groups == group).float().mean().item() for group in range(3))


def calibrate_eta(log_errors: Tensor, hard_share: float = 1 / 3) -> float:
    """The eta at which this share of the patches is hard; a larger eta makes fewer patches hard: so by bisection."""
    low, high = 1e-4, 1e3
    for _ in range(40):
        eta = (low * high) ** 0.5
        if group_shares(log_errors, eta)[2] > hard_share:
            low = eta
        else:
            high = eta
    return float(f"{high:.6g}")


def calibrate(
    folder: str | Path,
    pictures: str,
    conditions: Sequence[str] = tuple(PairSettings().mixture),
    hard_share: float = 1 / 3,
    second: tuple[str, str] | None = None,
    autoencoder: str | None = None,
    patch: int = 16,
) -> tuple[float, tuple[float, float, float]]:
    """Sets eta in the restorer's config.json; returns it with the shares of simple, medium and hard patches.

    folder       of the restorer
    second       folders of the second restorer and of the fusion, where the model has them
    autoencoder  folder of the one whose latents a SwinRestorer takes; a ConvRestorer takes pixels
    patch        V, in latents

    Raises ConfigError where a SwinRestorer comes without an autoencoder.
    """
    device = any_device()
    restorer = load_restorer(str(folder)).to(device)
    if restorer.input_kind == "latents" and autoencoder is None:
        raise ConfigError(f"{folder} takes latents: name the autoencoder that makes them with --autoencoder")
    encoder = None if autoencoder is None else load_autoencoder(autoencoder).to(device)
    both = () if second is None else (load_frozen(RrdbRestorer, second[0]), load_frozen(Fusion, second[1]))
    grm = GlobalRestoration(restorer, encoder, *(part.to(device) for part in both))
    log_errors = patch_log_errors(grm, pictures, conditions, patch)
    eta = calibrate_eta(log_errors, hard_share)
    path = Path(folder) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eta": eta}, indent=2) + "\n")
    return eta, group_shares(log_errors, eta)
