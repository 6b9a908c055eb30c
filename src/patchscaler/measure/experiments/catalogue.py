"""What can be rerun, and what the paper claims: no experiment is loaded to say it.

A further experiment is a file beside this one, an entry here and one in `run.RUNNERS`; its claims name it.
"""

from typing import NamedTuple


class Entry(NamedTuple):
    """shows: the paper's table or figure and what is varied; pictures: how many by default."""

    shows: str
    pictures: int


# The first two need a --backbone and a --set, which `all` may lack; the third takes a --set.
PLUG_IN, ABLATION, PROMPT = "plug-in", "ablation", "prompt"

CATALOGUE: dict[str, Entry] = {
    "pgs": Entry("Fig. 6: quality against sampling time, over start times and steps", 16),
    "groups": Entry("Fig. 1 and 3: maps of the groups, thresholds, steps by group", 12),
    PROMPT: Entry("Table 4: texture prompt, none, one for the whole picture, captions; K and size of the memory", 16),
    "runtime": Entry("Table 2: x4 from 128, 256 and 512; uniform and adaptive; one and two workers", 2),
    "quality": Entry("Table 1: the metrics on any folder, beside other methods, which --peer names", 24),
    PLUG_IN: Entry("Table 3: PGS in another diffusion upscaler, which --backbone names", 8),
    ABLATION: Entry("any option of inference varied by itself, which --set names", 16),
}


class Claim(NamedTuple):
    """One claim of the paper (arXiv 2405.17158).

    source      where it stands
    text        in our words
    experiment  that tests it, or ""
    reason      why none does; with an experiment, why the page on replication may have no record of it
    """

    source: str
    text: str
    experiment: str
    reason: str = ""


NO_BACKBONE = "no weights of another pipeline can be had on the machine these figures come from"

CLAIMS: dict[str, Claim] = {
    "equal-quality": Claim(
        "Fig. 6", "Adaptive sampling is as good as 20 steps for every patch, with less work and time", "pgs"
    ),
    "fewer-lose": Claim("Fig. 6", "Earlier start times and fewer steps than the chosen ones cost quality", "pgs"),
    "more-gain-nothing": Claim("Fig. 6", "Later start times and more steps than the chosen ones gain nothing", "pgs"),
    "confidence": Claim("Fig. 3", "The restoration module's confidence tells which patches are hard", "groups"),
    "steps-hard": Claim("Fig. 1", "Simple patches are finished after a few steps, hard ones go on gaining", "groups"),
    "texture-none": Claim("Table 4", "The texture prompt is better than no prompt", "prompt"),
    "texture-global": Claim(
        "Table 4", "The texture prompt is better than a text: here, than one prompt for the whole picture", "prompt"
    ),
    "runtime": Claim("Table 2", "Adaptive sampling shortens the whole way from picture to picture", "runtime"),
    "runtime-size": Claim("Table 2", "It saves a larger share of the work on larger pictures", "runtime"),
    "two-workers": Claim(
        "Table 2", "Two workers, one of them for hard patches, are faster than one (33.7 %)", "runtime"
    ),
    "peers": Claim("Table 1", "Its pictures are better than those of other methods", "quality"),
    "plug-in": Claim(
        "Table 3", "Adaptive sampling speeds up another diffusion upscaler (StableSR)", PLUG_IN, NO_BACKBONE
    ),
    "plug-in-quality": Claim(
        "Table 3", "Its pictures are better than those with all steps for every tile", PLUG_IN, NO_BACKBONE
    ),
    "resshift": Claim(
        "Table 2", "512 to 2048 takes 0.23 of ResShift's time", "",
        "needs ResShift's weights; times on an NVIDIA A100 are not repeated here",
    ),
    "text": Claim(
        "Table 4", "The texture prompt is better than captions by BLIP-2 in CLIP's tokens", PROMPT,
        "needs the weights of BLIP-2 and CLIP, and a Patch-DiT that was trained with texts",
    ),
    "absolute": Claim(
        "Tables 1 to 4", "The absolute figures", "",
        "they belong to weights that were never released; ours are another, smaller model",
    ),
}  # fmt: skip
