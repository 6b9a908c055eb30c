"""The light engine: ONNX Runtime, float32, on the processor. Graphs without weights lie beside it in the package, the
weights are the safetensors of the model folder."""

import hashlib
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import safe_open

from patchscaler.engines.architecture import ARCHITECTURE, SECOND, configs_of
from patchscaler.engines.processor import usable_cores
from patchscaler.engines.protocol import Array, Indices, ModelInfo, Restored
from patchscaler.errors import ConfigError, WeightsError
from patchscaler.imaging.dct import BlockDct
from patchscaler.imaging.tiles import OVERLAP
from patchscaler.pgs.gate import Gate
from patchscaler.pgs.sampling import runs, side_by_side
from patchscaler.pgs.schedule import alphas_from
from patchscaler.storage import BUNDLED, check_shapes, read_json, read_shapes, weight_files

GRAPHS = "graphs"  # folder of a model's own graphs; those of the package lie beside the bundled models
# The parts whose weights each graph reads.
READS = {
    "restorer": ("restorer",),
    "gate": ("fusion",),
    "second_restorer": ("second_restorer",),
    "fusion": ("fusion",),
    "prompt": ("texture_classifier", "texture_encoder", "patch_dit"),
    "patch_dit": ("patch_dit",),
    "decoder": ("autoencoder",),
}
# Latents, halo included, in one call: about 0.5 GiB and 0.3 GiB.
RESTORE_AREA, DECODE_AREA = 130_000, 2**16
FEWEST_QUERIES = 4  # as in models.model: for fewer rows, products go other ways whose last bits differ


class Texture(NamedTuple):
    """Keys (n,depth,heads,head width,tokens) and values (n,depth,heads,tokens,head width) of n patches' textures."""

    keys: Array
    values: Array


class OnnxEngine:
    """See `protocol.Engine` for the calls. Sessions are made when they are first asked.

    folder   of a model like `tiny`
    name     of the model; default: the folder's
    threads  of the processor; 0: one for each core

    Raises WeightsError for a folder that is no model, ConfigError for one whose networks have no graphs here.
    """

    device, dtype, copies = "cpu", "float32", True

    def __init__(self, folder: Path, name: str | None = None, threads: int = 0) -> None:
        self.folder, self.threads = Path(folder), threads or usable_cores()
        self._graphs, self._parts = graphs_for(self.folder)
        self.model = describe(self.folder, name or self.folder.name)
        self._sessions: dict[str, Future[Any]] = {}
        self._maker = ThreadPoolExecutor(1)

    def restore(self, pixels: Array) -> Restored:
        latents, log_error, features = self.session("restorer").run(None, {"pixels": pixels})
        gain = self.session("gate").run(None, {"features": features})[0] if self.model.gate else None
        return Restored(latents, log_error, gain)

    def fuse(self, pixels: Array, lean: float) -> Restored:
        latents, log_error, features = self.session("restorer").run(None, {"pixels": pixels})
        second_latents, second_features = self.session("second_restorer").run(None, {"pixels": pixels})
        first = {"features": features, "latents": latents, "log_error": log_error, "lean": np.array(lean, np.float32)}
        second = {"second_latents": second_latents, "second_features": second_features}
        return Restored(*self.session("fusion").run(None, first | second))

    def prompt(self, coarse: Array, rows: Indices, texture: Texture | None, count: int) -> Texture:
        missing = max(0, FEWEST_QUERIES - len(coarse))
        some = np.pad(coarse, ((0, missing), (0, 0), (0, 0), (0, 0)))
        found = [part[: len(coarse)] for part in self.session("prompt").run(None, {"coarse": some, **self.memory})]
        texture = texture or Texture(*(np.zeros((count, *part.shape[1:]), np.float32) for part in found))
        for whole, part in zip(texture, found, strict=True):
            whole[rows] = part
        return texture

    def denoise(
        self, x_t: Array, t: Indices, coarse: Array, log_error: Array, texture: Texture | None, rows: Indices
    ) -> Array:
        prediction = np.empty_like(x_t)
        reads = np.full(len(x_t), texture is not None)
        if self.model.prompt_limit is not None:
            reads &= log_error.mean(axis=(1, 2, 3)) <= self.model.prompt_limit
        for own in runs(t):
            readers = np.flatnonzero(reads[own])
            keys, values = self._read(texture, rows[own][readers])
            noisy = {
                "x_t": x_t[own],
                "t": t[own.start : own.start + 1],
                "coarse": coarse[own],
                "log_error": log_error[own],
            }
            read = {"rows": readers, "keys": keys, "values": values}
            (prediction[own],) = self.session("patch_dit").run(None, noisy | read)
        return prediction

    def decode(self, latents: Array) -> Array:
        assert self.model.dct is not None
        mean, std = self.model.dct.statistics
        pixels: Array = self.session("decoder").run(None, {"latents": latents, "mean": mean, "std": std})[0]
        return pixels

    def digest(self) -> bytes:
        digest = hashlib.sha256(self.dtype.encode())
        for part in self._parts:
            for name, tensor in sorted(self.load(part).items()):
                digest.update(f"{part}.{name}".encode())
                digest.update(tensor.tobytes())
        return digest.digest()

    def sampler(self, device: str, threads: int) -> Callable[[], "OnnxEngine"]:
        return partial(OnnxEngine, self.folder, self.model.name, threads)

    @cached_property
    def memory(self) -> dict[str, Array]:
        """What `prompt` looks its textures up in."""
        memory = self.load("texture_memory")
        keys, scale = (memory[name].astype(np.float32) for name in ("texture_keys", "value_scale"))
        values = memory["texture_values"]
        return {"memory_keys": np.ascontiguousarray(keys.T), "memory_values": values, "value_scale": scale}

    @cached_property
    def _nothing(self) -> Texture:
        """Of no patch."""
        dit, encoder = (read_json(self.folder / part / "config.json") for part in ("patch_dit", "texture_encoder"))
        tokens = encoder["top_k"] * (encoder["sample_size"] // encoder["patch_size"]) ** 2
        shape, width = (0, dit["depth"], dit["heads"]), dit["width"] // dit["heads"]
        return Texture(np.zeros((*shape, width, tokens), np.float32), np.zeros((*shape, tokens, width), np.float32))

    def _read(self, texture: Texture | None, rows: Indices) -> Texture:
        """Of these patches."""
        if texture is None or not len(rows):
            return self._nothing
        return Texture(*(part[side_by_side(rows)] for part in texture))

    def session(self, network: str) -> Any:
        """Of one of `networks`, made when it is first asked."""
        self.prepare(network)
        return self._sessions[network].result()

    def prepare(self, *networks: str) -> None:
        """Begins to make the sessions of these, one after the other, in the background: a third of a second's work."""
        for network in networks:
            if network not in self._sessions:
                self._sessions[network] = self._maker.submit(self._start, network)

    def _start(self, network: str) -> Any:
        import onnxruntime

        graph = self.graph(network)
        weights = {
            f"{part}.{name}": onnxruntime.OrtValue.ortvalue_from_numpy(tensor.astype(np.float32))
            for part in READS[network]
            for name, tensor in self.load(part, lambda name, part=part: _holds(graph, f"{part}.{name}")).items()
        }
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        # Measured (docs/onnx.md): threads that spin while they wait take the processor from other programs and from
        # each other, and buffers kept for the next call cost memory and save no time.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.enable_cpu_mem_arena = False
        options.add_external_initializers(list(weights), list(weights.values()))
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    @property
    def networks(self) -> tuple[str, ...]:
        """The graphs that this model has."""
        return tuple(name for name, parts in READS.items() if set(parts) <= set(self._parts))

    def graph(self, network: str) -> bytes:
        """An ONNX file without weights."""
        return (self._graphs / f"{network}.onnx").read_bytes()

    def load(self, part: str, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, Any]:
        """The weights of a part, or those of them that are wanted, as they are stored."""
        state: dict[str, Any] = {}
        for path in weight_files(self.folder / part):
            with safe_open(path, framework="numpy") as file:
                state |= {name: file.get_tensor(name) for name in filter(wanted, file.keys())}
        return state


def _holds(graph: bytes, name: str) -> bool:
    """Whether a graph has a weight of this name: in the file, TensorProto's field 8, its length and it."""
    return b"\x42" + bytes([len(name)]) + name.encode() in graph


def graphs_for(folder: Path) -> tuple[Path, Collection[str]]:
    """Where the graphs lie that fit a model, its own or those of the package; and the model's parts.

    Raises WeightsError, naming the file, for weights that don't fit their config, ConfigError where no graphs fit.
    """
    wanted = configs_of(folder)
    if len(SECOND & wanted.keys()) == 1:
        raise WeightsError(f"{folder}: {' and '.join(sorted(SECOND))} go together, but only one of them is there")
    for graphs in (folder / GRAPHS, BUNDLED / GRAPHS):
        found = read_json(graphs / ARCHITECTURE) if (graphs / ARCHITECTURE).is_file() else {}
        if {part: found.get(part, {}).get("config") for part in wanted} == wanted:
            break
    else:
        raise ConfigError(
            f"{folder}: networks of other sizes than the bundled model's have no graphs yet; "
            f"make them with `patchscaler export graphs {folder}`, or use --engine torch"
        )
    for part in wanted:
        files = weight_files(folder / part)
        shapes = {name: shape for path in files for name, shape in read_shapes(path).items()}
        if part == "texture_memory":  # of any size
            shapes = {name: (0, *shape[1:]) if len(shape) > 1 else shape for name, shape in shapes.items()}
        check_shapes(files[0] if len(files) == 1 else folder / part, shapes, found[part]["tensors"])
    return graphs, wanted


def describe(folder: Path, name: str) -> ModelInfo:
    """What the core has to know of a model. Raises WeightsError."""
    configs = {part: read_json(folder / part / "config.json") for part in configs_of(folder)}
    autoencoder, restorer, dit = (configs[part] for part in ("autoencoder", "restorer", "patch_dit"))
    luma, chroma, channels = autoencoder["luma"], autoencoder["chroma"], dit["latent_channels"]
    mean, std = autoencoder["latents_mean"] or (0.0,) * channels, autoencoder["latents_std"] or (1.0,) * channels
    gate = configs.get("fusion")
    seen = restorer["blocks"] * (2 if restorer["block"] == "residual" else 1) + 1  # pixels: ConvRestorer.reach
    return ModelInfo(
        name=name,
        patch=dit["sample_size"],
        overlap=read_json(folder / "model_index.json").get("overlap", OVERLAP),
        channels=channels,
        eta=restorer["eta"],
        alphas=alphas_from(read_json(folder / "scheduler" / "scheduler_config.json")),
        prediction_type=dit["prediction_type"],
        prompt_limit=dit["prompt_limit"],
        restore_reach=-(-seen // 2) + 1,
        restore_area=RESTORE_AREA,
        decode_reach=2 + 2 * autoencoder["blocks"] + autoencoder["fine_blocks"] + 1,  # DctAutoencoder.reach
        decode_area=DECODE_AREA,
        gate=None if gate is None else Gate(gate["gate_limit"], gate["gate_reach"], gate["gate_share"]),
        dct=BlockDct(luma, chroma, tuple(mean), tuple(std)),
    )
