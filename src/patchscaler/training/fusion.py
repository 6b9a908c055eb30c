"""Training of the fusion of two restorers, with the decoder along and without sampling: LPIPS (VGG16) and L1 of pixels.

The restorers stay as they are. What they make of degraded crops is computed once (`OpinionCache`): the second one
takes ten times as long as all that is trained here.
"""

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
    patch, side        latents of the cached crop that are fused, and of those whose pixels are compared
    first_share        of the samples that are decoded from the first restorer's latents alone, so that the decoder goes
                       on serving those, too
    *_weight           of the losses; adversarial_after: steps before the discriminator is listened to
    decoder_rate       of the decoder, relative to run.learning_rate
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
    patch: int = 24
    side: int = 14
    first_share: float = 0.2
    pixel_weight: float = 1.0
    perceptual_weight: float = 1.0
    adversarial_weight: float = 0.0
    adversarial_after: int = 300
    discriminator_rate: float = 2e-4
    discriminator_width: int = 48
    decoder_rate: float = 0.15
    validation_count: int = 192


class OpinionCache(Dataset):
    """Sample `index` -> a random square of a random crop: pixels, and what both restorers made of it.

    {"pixels": (3,8p,8p), "coarse", "second": (c,p,p), "log_error": (1,p,p), "first", "second_features": (f,2p,2p)}
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
        quick = None

        def compute(batch: dict[str, Tensor]) -> dict[str, Tensor]:
            nonlocal quick
            if quick is None:
                config = {k: v for k, v in second.config.items() if not k.startswith("_")}
                quick = RrdbRestorer(**config).eval()
                quick.load_state_dict(second.state_dict())
                nn.Module.to(quick, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
            lr = batch["lr"].contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
                first, features = restorer(lr, with_features=True)
                opinion = quick(lr)
            return {
                "pixels": batch["hr"],
                "coarse": first.latents.float(),
                "log_error": first.log_error.float(),
                "first": nn.functional.pixel_shuffle(features[..., 1:-1, 1:-1], 2).float(),
                "second": opinion.latents.float(),
                "second_features": opinion.features.float(),
            }

        c, f, g = autoencoder.latent_channels, int(restorer.config["width"]), int(second.config["width"])
        self.crops = CropCache(
            Path(cache.folder) / fingerprint("opinions", cache, dataset, autoencoder, [restorer, second]),
            cache.count,
            {
                "pixels": (3, crop, crop),
                "coarse": (c, low, low),
                "log_error": (1, low, low),
                "first": (f, high, high),
                "second": (c, low, low),
                "second_features": (g, high, high),
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


def opinions(batch: dict[str, Tensor]) -> tuple[Tensor, Restoration, SecondOpinion]:
    """What `Fusion` takes, of a batch of `OpinionCache`."""
    first = nn.functional.pixel_unshuffle(nn.functional.pad(batch["first"], (2,) * 4, mode="replicate"), 2)
    restored = Restoration(batch["coarse"], batch["log_error"])
    return first, restored, SecondOpinion(batch["second"], batch["second_features"])


class FusedDecoder(nn.Module):
    """Fusion and decoder: what is trained together."""

    def __init__(self, fusion: Fusion, autoencoder: DctAutoencoder) -> None:
        super().__init__()
        self.fusion, self.autoencoder = fusion, autoencoder

    def forward(self, batch: dict[str, Tensor], alone: Tensor, place: tuple[int, int], side: int) -> Tensor:
        """Pixels at the latents [place, place + side); alone (n,): of the first restorer's latents."""
        fused = self.fusion(*opinions(batch)).latents
        latents = torch.where(alone[:, None, None, None], batch["coarse"], fused)
        return decode_square(self.autoencoder, latents, place, side)


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
        self.network: Any = FusedDecoder(fusion, self.autoencoder).train()
        for name, parameter in self.network.named_parameters():
            decoder = name.startswith("autoencoder.")
            parameter.requires_grad_(settings.decoder if decoder else ".gate_" not in name)
        self.compared = PictureLoss(settings)
        self.checkpointed = self.compared.checkpointed
        self.frozen = [*self.compared.frozen, self.restorer, self.second]
        self._pairs: list[tuple[str, dict[str, Tensor], tuple[Tensor, Restoration, SecondOpinion]]] = []

    def rate_of(self, name: str) -> float:
        """Of a parameter, relative to run.learning_rate: one step of Adam moves a sum of hundreds of inputs by as many
        times its rate, and what the first and last layers sum up is not small."""
        if name.startswith("autoencoder."):
            return self.settings.decoder_rate
        return _OUTER_RATE if name.startswith(("fusion.entry.", "fusion.exit.")) else 1.0

    def _measured(self) -> tuple[Tensor, Restoration, SecondOpinion]:
        """A few crops, from which a new fusion takes the spreads of its inputs."""
        count = min(_MEASURED, self._opinions.crops.count)
        crops = [self._opinions.crops.square(number, 0, 0, self.settings.patch) for number in range(count)]
        return opinions({name: torch.stack([crop[name] for crop in crops]) for name in crops[0]})

    def dataset(self) -> Dataset:
        return self._opinions

    def loss(
        self, network: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        settings = self.settings
        margin = (settings.patch - settings.side) // 2  # latents whose surroundings are cut off aren't compared
        square = Square.draw(settings.patch - 2 * (margin // 2), settings.side, generator)
        place = square.place[0] + margin // 2, square.place[1] + margin // 2
        alone = (torch.rand(len(batch["pixels"]), generator=generator) < settings.first_share).to(
            batch["pixels"].device
        )
        decoded = square.cut(network(batch, alone, place, square.latents))
        truth = square.cut(pixel_square(batch["pixels"], place, square.latents))
        return self.compared(decoded, truth)

    def validate(self) -> tuple[dict[str, float], Image.Image | None]:
        """LPIPS (alex) and PSNR-Y of the first restorer's, the fused and, as a yardstick, the second one's picture."""
        fusion, autoencoder = self.network.fusion, self.network.autoencoder
        found, rows = [], []
        for number, (condition, pair, (features, first, second)) in enumerate(self._validation()):
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
                self._pairs.append((condition, pair, (features, first, self.second(pair["lr"]))))
        return self._pairs

    def export(self, folder: Path) -> None:
        self.network.fusion.save_pretrained(folder / "fusion")
        self.network.autoencoder.save_pretrained(folder / "autoencoder")
