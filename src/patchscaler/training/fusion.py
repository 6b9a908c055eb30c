"""Training of the fusion of two restorers, with the decoder and the second one's last layers along, without sampling.

The first restorer stays as it is. What it makes of degraded crops is computed once (`OpinionCache`), and so is what the
second one's first blocks make of them: all of its blocks together take ten times as long as the rest.
"""

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from patchscaler.data.pairs import PairDataset, PairSettings
from patchscaler.data.pictures import PictureSet
from patchscaler.data.reading import picture_files
from patchscaler.imaging.geometry import STRIDE
from patchscaler.metrics.fidelity import psnr_y
from patchscaler.models.autoencoder import DctAutoencoder
from patchscaler.models.fusion import Fusion
from patchscaler.models.restorer import ConvRestorer, Restoration
from patchscaler.models.rrdb import RrdbRestorer, SecondOpinion
from patchscaler.training.cache import CacheSettings, CropCache, fingerprint
from patchscaler.training.decoding import Square, decode_square, pixel_square
from patchscaler.training.frozen import load_frozen
from patchscaler.training.picture_loss import PictureLoss
from patchscaler.training.settings import RunSettings
from patchscaler.training.validation import conditioned_pairs, mean_figures, sheet

VALIDATION_SIDE = 128
SHEET_ROWS = 24
_MEASURED = 64  # crops of which the inputs' spreads are taken
_OUTER_RATE = 0.3


@dataclass(frozen=True)
class FusionSettings:
    """One run; it begins from the parts in the folders named.

    fusion             folder of an earlier fusion to go on from; None: a new one of [model]
    decoder            whether the decoder learns along
    second_blocks      last residual dense blocks of the second restorer that learn along with all that follows them;
                       0: it stays as it is
    patch, side        latents of the cached crop that are fused, and of those whose pixels are compared
    first_share        of the samples that are decoded from the first restorer's latents alone, so that the decoder goes
                       on serving those, too
    *_weight           of the losses, see PictureLoss; adversarial_after: steps before the discriminator is listened to
    decoder_rate, second_rate  of the decoder and the second restorer, relative to run.learning_rate
    validation_count   crops, an equal share of them per condition
    """

    run: RunSettings
    pictures: PictureSet
    autoencoder: str
    restorer: str
    second_restorer: str
    validation: str
    fusion: str | None = None
    model: dict[str, Any] = field(default_factory=dict)
    features: str | None = None
    pairs: PairSettings = field(default_factory=lambda: PairSettings(crop=256))
    cache: CacheSettings = field(default_factory=lambda: CacheSettings(folder="cache/opinions", count=5000))
    decoder: bool = True
    second_blocks: int = 0
    patch: int = 24
    side: int = 14
    first_share: float = 0.2
    pixel_weight: float = 1.0
    perceptual_weight: float = 1.0
    texture_weight: float = 0.0
    adversarial_weight: float = 0.0
    adversarial_after: int = 300
    discriminator_rate: float = 2e-4
    discriminator_width: int = 48
    decoder_rate: float = 0.15
    second_rate: float = 0.3
    validation_count: int = 192


class OpinionCache(Dataset):
    """Sample `index` -> a random square of a random crop: pixels, and what both restorers made of it.

    {"pixels": (3,8p,8p), "coarse": (c,p,p), "log_error": (1,p,p), "first" (f,2p,2p): the first restorer's answer,
    "entered", "trunk" (g,2p,2p): the second one's first convolution and its blocks up to those that learn}
    """

    def __init__(
        self,
        settings: FusionSettings,
        autoencoder: DctAutoencoder,
        restorer: ConvRestorer,
        second: RrdbRestorer,
    ) -> None:
        self.patch, self.seed = settings.patch, settings.run.seed
        crop, cache = settings.pairs.crop, settings.cache
        dataset = PairDataset(settings.pictures, settings.pairs, cache.seed)
        low, high = crop // STRIDE, crop // 4
        dtype = torch.bfloat16 if cache.precision == "bf16" else torch.float32
        frozen = nn.ModuleList([second.entry, second.body[: len(second.body) - settings.second_blocks]])
        quick: Any = None

        def compute(batch: dict[str, Tensor]) -> dict[str, Tensor]:
            nonlocal quick
            if quick is None:
                quick = copy.deepcopy(frozen).to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
            lr = batch["lr"].contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
                first, features = restorer(lr, with_features=True)
                entered = quick[0](lr.to(dtype))
                trunk = quick[1](entered)
            return {
                "pixels": batch["hr"],
                "coarse": first.latents.float(),
                "log_error": first.log_error.float(),
                "first": nn.functional.pixel_shuffle(features[..., 1:-1, 1:-1], 2).float(),
                "entered": entered.float(),
                "trunk": trunk.float(),
            }

        c, f, g = autoencoder.latent_channels, int(restorer.config["width"]), int(second.config["width"])
        self.crops = CropCache(
            Path(cache.folder) / fingerprint("opinions", cache, dataset, autoencoder, [restorer, frozen]),
            cache.count,
            {
                "pixels": (3, crop, crop),
                "coarse": (c, low, low),
                "log_error": (1, low, low),
                "first": (f, high, high),
                "entered": (g, high, high),
                "trunk": (g, high, high),
            },
            dataset,
            compute,
            cache.workers,
        )

    def __len__(self) -> int:
        return 2**40

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([self.seed, index, 3])
        number = int(rng.integers(self.crops.count))
        top, left = rng.integers(self.crops.side - self.patch + 1, size=2).tolist()
        return self.crops.square(number, top, left, self.patch)


class FusedDecoder(nn.Module):
    """Second restorer, fusion and decoder: what is trained together."""

    def __init__(self, second: RrdbRestorer, blocks: int, fusion: Fusion, autoencoder: DctAutoencoder) -> None:
        super().__init__()
        self.second, self.blocks, self.fusion, self.autoencoder = second, blocks, fusion, autoencoder

    def forward(self, batch: dict[str, Tensor], alone: Tensor, place: tuple[int, int], side: int) -> Tensor:
        """Pixels at the latents [place, place + side); alone (n,): of the first restorer's latents."""
        fused = self.fusion(*opinions(self.second, self.blocks, batch)).latents
        latents = torch.where(alone[:, None, None, None], batch["coarse"], fused)
        return decode_square(self.autoencoder, latents, place, side)


def opinions(second: RrdbRestorer, blocks: int, batch: dict[str, Tensor]) -> tuple[Tensor, Restoration, SecondOpinion]:
    """What `Fusion` takes, of a batch of `OpinionCache`; blocks: the second restorer's last ones, which it lacks."""
    first = nn.functional.pixel_unshuffle(nn.functional.pad(batch["first"], (2,) * 4, mode="replicate"), 2)
    entered, trunk = (batch[name].contiguous(memory_format=torch.channels_last) for name in ("entered", "trunk"))
    if torch.is_autocast_enabled(trunk.device.type):  # the sums between the convolutions, too
        entered, trunk = (x.to(torch.get_autocast_dtype(x.device.type)) for x in (entered, trunk))
    opinion = second.finish(entered, second.body[len(second.body) - blocks :](trunk))
    return first, Restoration(batch["coarse"], batch["log_error"]), opinion


class FusionTask:
    def __init__(self, settings: FusionSettings) -> None:
        self.settings = settings
        picture_files(Path(settings.validation))  # a missing folder fails now, not at the first validation
        self.autoencoder = load_frozen(DctAutoencoder, settings.autoencoder).to(memory_format=torch.channels_last)
        self.restorer = load_frozen(ConvRestorer, settings.restorer).to(memory_format=torch.channels_last)
        self.second = load_frozen(RrdbRestorer, settings.second_restorer).to(memory_format=torch.channels_last)
        self._opinions = OpinionCache(settings, self.autoencoder, self.restorer, self.second)
        torch.manual_seed(settings.run.seed)
        if settings.fusion:
            fusion = load_frozen(Fusion, settings.fusion)
        else:
            widths = (int(network.config["width"]) for network in (self.restorer, self.second))
            fusion = Fusion(self.autoencoder.latent_channels, *widths, **settings.model)
            fusion.standardise(*self._measured())
        fusion.to(memory_format=torch.channels_last)
        self.network: Any = FusedDecoder(self.second, settings.second_blocks, fusion, self.autoencoder).train()
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(self._learns(name))
        self.compared = PictureLoss(settings)
        self.checkpointed = self.compared.checkpointed
        self.frozen = [*self.compared.frozen, self.restorer]
        self._pairs: list[tuple[str, dict[str, Tensor], tuple[Tensor, Restoration]]] = []

    def _learns(self, name: str) -> bool:
        part, layer, *rest = name.split(".")
        if part == "second" and layer == "body":
            return int(rest[0]) >= int(self.second.config["blocks"]) - self.settings.second_blocks
        if part == "second":
            return layer != "entry" and self.settings.second_blocks > 0
        return self.settings.decoder if part == "autoencoder" else not layer.startswith("gate_")

    def rate_of(self, name: str) -> float:
        """Of a parameter, relative to run.learning_rate: one step of Adam moves a sum of hundreds of inputs by as many
        times its rate, and what the first and last layers sum up is not small."""
        if name.startswith("autoencoder."):
            return self.settings.decoder_rate
        if name.startswith("second."):
            return self.settings.second_rate
        return _OUTER_RATE if name.startswith(("fusion.entry.", "fusion.exit.")) else 1.0

    def _measured(self) -> tuple[Tensor, Restoration, SecondOpinion]:
        """A few crops, from which a new fusion takes the spreads of its inputs."""
        count = min(_MEASURED, self._opinions.crops.count)
        crops = [self._opinions.crops.square(number, 0, 0, self.settings.patch) for number in range(count)]
        batch = {name: torch.stack([crop[name] for crop in crops]) for name in crops[0]}
        with torch.no_grad():
            return opinions(self.second, self.settings.second_blocks, batch)

    def dataset(self) -> Dataset:
        return self._opinions

    def loss(
        self, network: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        settings = self.settings
        margin = (settings.patch - settings.side) // 2  # latents whose surroundings are cut off aren't compared
        square = Square.draw(settings.patch - 2 * (margin // 2), settings.side, generator)
        place = square.place[0] + margin // 2, square.place[1] + margin // 2
        alone = torch.rand(len(batch["pixels"]), generator=generator) < settings.first_share
        alone = alone.to(batch["pixels"].device)
        decoded = square.cut(network(batch, alone, place, square.latents))
        truth = square.cut(pixel_square(batch["pixels"], place, square.latents))
        return self.compared(decoded, truth)

    def validate(self) -> tuple[dict[str, float], Image.Image | None]:
        """LPIPS (alex) and PSNR-Y of the first restorer's, the fused and, as a yardstick, the second one's picture."""
        fusion, autoencoder = self.network.fusion, self.network.autoencoder
        found, rows = [], []
        for number, (condition, pair, (features, first)) in enumerate(self._validation()):
            second = self.network.second(pair["lr"])
            latents = {"first": first.latents, "fused": fusion(features, first, second).latents}
            if len(self._pairs) <= SHEET_ROWS or number % (len(self._pairs) // SHEET_ROWS) == 0:
                latents["second"] = second.latents
            pictures = {n: autoencoder.decode(part).float().clamp(0, 1) for n, part in latents.items()}
            figures: dict[str, float] = {}
            for name in ("first", "fused"):
                picture, truth = pictures[name], pair["hr"]
                figures[f"lpips_alex_{name}"] = float(self.compared.judged(picture, truth))
                figures[f"psnr_y_{name}"] = float(psnr_y(picture, truth))
            found.append((condition, figures))
            if "second" in pictures:
                rows.append([*pictures.values(), pair["hr"]])
        return mean_figures(found), sheet(rows)

    def _validation(self) -> list[Any]:
        if not self._pairs:
            for condition, pair in conditioned_pairs(self.settings, VALIDATION_SIDE):
                first, features = self.restorer(pair["lr"], with_features=True)
                self._pairs.append((condition, pair, (features, first)))
        return self._pairs

    def export(self, folder: Path) -> None:
        self.network.fusion.save_pretrained(folder / "fusion")
        if self.settings.second_blocks:
            self.network.second.save_pretrained(folder / "second_restorer")
        self.network.autoencoder.save_pretrained(folder / "autoencoder")
