"""The corpora of image restoration as data: where each is published, how its folders look, how many pairs it has.

A layout is written as two path templates below a folder, such as `hazy/{scene}_*.png` and `clear/{scene}.png`: a word
in braces stands for a part of a name and must read the same in both, `*` for any part of a name, `**` for any folders.
A suffix only shows what is published: pictures converted to another format are found as well.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Layout:
    """One way in which a corpus is distributed.

    Attributes:
        degraded: template of the degraded pictures; None where the corpus has clean ones only.
        clean: template of the clean pictures; its words occur in `degraded` too.
        ignored: templates of pictures that are no part of a pair, such as masks.
        tasks: for corpora of several tasks, the task by what `{task}` reads in `degraded`.
        clean_border: pixels on each side by which clean pictures may be larger; they are cut off.
        has_spare_clean: whether clean pictures without a degraded one are normal: they belong to other splits.
        count: published number of pairs where this layout is that of another edition than the split's `count`.
    """

    degraded: str | None
    clean: str
    ignored: tuple[str, ...] = ()
    tasks: Mapping[str, str] = field(default_factory=dict)
    clean_border: int = 0
    has_spare_clean: bool = False
    count: int | None = None


@dataclass(frozen=True)
class Split:
    """The training or the test part of a corpus.

    Attributes:
        folders: where below the corpus' folder the layout may begin; the first that fits counts.
        layouts: ways in which it is distributed; the first that fits counts.
        count: published number of pairs (of pictures, where there are clean ones only); None when it is not fixed.
    """

    folders: tuple[str, ...]
    layouts: tuple[Layout, ...]
    count: int | None = None


@dataclass(frozen=True)
class Corpus:
    """A published corpus.

    Attributes:
        name: the key in `CORPORA`.
        task: one of `KINDS` or of `UNSEEN`, "mixed" when pairs differ in it, or "clean" when there are no degraded
            pictures.
        source: where it is published.
        licence: what may be done with it, as far as its authors say.
        citation: the publication to cite.
        splits: by name, "train" and "test" or one of them.
    """

    name: str
    task: str
    source: str
    licence: str
    citation: str
    splits: Mapping[str, Split]


UNSTATED = "none stated; research use"
RESIDE = {
    "task": "haze",
    "source": "https://sites.google.com/view/reside-dehaze-datasets",
    "licence": UNSTATED,
    "citation": "Li et al., Benchmarking Single-Image Dehazing and Beyond, IEEE TIP 2019",
}
MPRNET = {"task": "rain", "source": "https://github.com/swz30/MPRNet", "licence": UNSTATED}
RAIN100 = {
    "task": "rain",
    "source": "https://www.icst.pku.edu.cn/struct/Projects/joint_rain_removal.html",
    "licence": UNSTATED,
    "citation": "Yang et al., Deep Joint Rain Detection and Removal from a Single Image, CVPR 2017",
}
SNOW100K = {
    "task": "snow",
    "source": "https://sites.google.com/view/yunfuliu/desnownet",
    "licence": UNSTATED,
    "citation": "Liu et al., DesnowNet: Context-Aware Deep Network for Snow Removal, IEEE TIP 2018",
}
GOPRO = {
    "task": "blur",
    "source": "https://seungjunnah.github.io/Datasets/gopro",
    "licence": "CC BY 4.0",
    "citation": "Nah et al., Deep Multi-scale Convolutional Neural Network for Dynamic Scene Deblurring, CVPR 2017",
}
BSD = {
    "task": "clean",
    "source": "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/resources.html",
    "licence": "non-commercial research and education",
    "citation": "Martin et al., A Database of Human Segmented Natural Images, ICCV 2001",
}

# Rain pairs travel in many shapes: the last is how multi-stage deraining networks repackaged them.
INPUT_TARGET = Layout("input/{name}.png", "target/{name}.png")
RAIN_LAYOUTS = (
    Layout("rain-{n}.png", "norain-{n}.png"),
    Layout("rainy/rain-{n}.png", "norain-{n}.png"),
    Layout("rainy/rain-{n}.png", "norain/norain-{n}.png"),
    Layout("rainy/rain-{n}.png", "gt/norain-{n}.png"),
    Layout("rain/rain-{n}.png", "norain/norain-{n}.png"),
    INPUT_TARGET,
)
SOTS_OUTDOOR_LAYOUTS = tuple(
    Layout("hazy/{scene}_*.jpg", f"{clean}/{{scene}}.png", ignored=("trans/**",)) for clean in ("gt", "clear")
)
# The rooms' photographs have a white border that their hazy versions lack.
ROOM_LAYOUTS = tuple(
    Layout("hazy/{scene}_*.png", f"{clean}/{{scene}}.png", ignored=("trans/**",), clean_border=10)
    for clean in ("gt", "clear")
)
SNOW_LAYOUT = Layout("synthetic/{name}.jpg", "gt/{name}.jpg", ignored=("mask/**",))
SNOW_TEST = "media/jdway/GameSSD/overlapping/test"
PLAIN_FOLDERS = Layout("degraded/{name}.png", "clean/{name}.png")
# Folders are named by short words for the kinds; tasks name them in the order of `KINDS`.
CDD11_WORDS = {"haze": "haze", "rain": "rain", "snow": "snow", "low": "low_light"}
CDD11_FOLDERS = ("low", "haze", "rain", "snow", "low_haze", "low_rain", "low_snow", "haze_rain", "haze_snow")
CDD11_TASKS = {
    folder: "+".join(kind for word, kind in CDD11_WORDS.items() if word in folder.split("_"))
    for folder in (*CDD11_FOLDERS, "low_haze_rain", "low_haze_snow")
}
CDD11_LAYOUT = Layout("{task}/{name}.png", "clear/{name}.png", tasks=CDD11_TASKS)


def _test(folder: str, count: int, *layouts: Layout) -> dict[str, Split]:
    """The only split of a benchmark, whose folder is given, or the one above it."""
    return {"test": Split((f"test/{folder}", folder, "."), layouts, count)}


def _rain100(letter: str, weight: str, training: int) -> dict[str, Split]:
    """The splits of Rain100H and Rain100L, by their several folder names, in the edition that the field measures on.

    The authors later replaced both by larger ones (also Rain200H and Rain200L), which are read too.
    """
    train, later = ("train", f"RainTrain{letter}", f"rain_data_train_{weight}", "."), f"rain_data_test_{weight}"
    test = ("test", f"test/Rain100{letter}", f"Rain100{letter}", f"{later}/rain_{weight.lower()}_test", later, ".")
    return {
        "train": Split(train, (*RAIN_LAYOUTS, *_later_rain(1800)), training),
        "test": Split(test, (*RAIN_LAYOUTS, *_later_rain(200)), 100),
    }


def _later_rain(count: int) -> tuple[Layout, ...]:
    """The layouts of the later edition of Rain100H and Rain100L: rainy pictures have the names of the clean ones."""
    rainy = ("rain/X2/norain-{n}x2.png", "rain/norain-{n}x2.png", "rain/norain-{n}.png")
    return tuple(Layout(degraded, "norain/norain-{n}.png", count=count) for degraded in rainy)


def _snow_test(size: str, count: int) -> dict[str, Split]:
    """The test split of one of the three sizes of flakes."""
    folders = (f"test/Snow100K-{size}", f"Snow100K-{size}", f"{SNOW_TEST}/Snow100K-{size}", ".")
    return {"test": Split(folders, (SNOW_LAYOUT,), count)}


def _gopro(*layouts: Layout) -> dict[str, Split]:
    """The splits of GoPro: a folder for each sequence."""
    return {
        name: Split((name, f"GOPRO_Large/{name}", "."), layouts, count)
        for name, count in (("train", 2103), ("test", 1111))
    }


def _reds(folder: str, count: int) -> Split:
    """A split of REDS; the archives unpack into a folder for each kind of degradation."""
    others = tuple(f"{other}*/**" for other in ("train", "val", "test") if other != folder)
    layout = Layout(
        f"{folder}_blur/{{sequence}}/{{frame}}.png",
        f"{folder}_sharp/{{sequence}}/{{frame}}.png",
        ignored=(f"{folder}_*_*/**", *others),
    )
    return Split((folder, "."), (layout,), count)


def _hide(folder: str, other: str, count: int) -> Split:
    """A split of HIDE; one folder holds the sharp pictures of both."""
    layout = Layout(f"{folder}/**/{{name}}.png", "GT/{name}.png", ignored=(f"{other}/**",), has_spare_clean=True)
    return Split((".", "HIDE_dataset"), (layout,), count)


CORPORA: dict[str, Corpus] = {
    corpus.name: corpus
    for corpus in (
        Corpus(
            name="reside6k",
            splits={
                name: Split((name, f"RESIDE-6K/{name}"), (Layout("hazy/{name}.jpg", "GT/{name}.jpg"),), count)
                for name, count in (("train", 6000), ("test", 1000))
            },
            **RESIDE | {"source": "https://github.com/IDKiro/DehazeFormer"},
        ),
        Corpus(
            name="reside_its",
            splits={"train": Split(("ITS_v2", "ITS", "train/ITS", "."), ROOM_LAYOUTS[::-1], 13990)},
            **RESIDE,
        ),
        Corpus(
            name="reside_ots",
            splits={
                "train": Split(
                    ("OTS_BETA", "OTS", "train/OTS", "."),
                    tuple(
                        Layout(f"{hazy}/**/{{scene}}_*.jpg", "clear/**/{scene}.jpg", ignored=("depth/**", "trans/**"))
                        for hazy in ("hazy", "haze")
                    ),
                    72135,
                )
            },
            **RESIDE,
        ),
        Corpus(
            name="reside_sots_indoor",
            splits={
                "test": Split(("SOTS/indoor", "indoor", "nyuhaze500", "test/indoor", "test", "."), ROOM_LAYOUTS, 500)
            },
            **RESIDE,
        ),
        Corpus(
            name="reside_sots_outdoor",
            splits={
                "test": Split(("SOTS/outdoor", "outdoor", "test/outdoor", "test", "."), SOTS_OUTDOOR_LAYOUTS, 500)
            },
            **RESIDE,
        ),
        Corpus(
            name="rain13k",
            citation="Zamir et al., Multi-Stage Progressive Image Restoration, CVPR 2021",
            splits={
                "train": Split(
                    ("train/Rain13K", "Rain13K", "train", "."),
                    (Layout("input/{name}.jpg", "target/{name}.jpg"),),
                    13711,
                )
            },
            **MPRNET,
        ),
        Corpus(name="rain100h", splits=_rain100("H", "Heavy", 1800), **RAIN100),
        Corpus(name="rain100l", splits=_rain100("L", "Light", 200), **RAIN100),
        Corpus(
            name="rain12",
            task="rain",
            source="https://yu-li.github.io",
            licence=UNSTATED,
            citation="Li et al., Rain Streak Removal Using Layer Priors, CVPR 2016",
            splits=_test(
                "Rain12",
                12,
                Layout("input/{n}_in.png", "groundtruth/{n}_GT.png"),
                Layout("rainy/{n}_in.png", "groundtruth/{n}_GT.png"),
                *RAIN_LAYOUTS,
            ),
        ),
        Corpus(
            name="test100",
            citation="Zhang et al., Image De-raining Using a Conditional Generative Adversarial Network, TCSVT 2020",
            splits=_test("Test100", 100, INPUT_TARGET),
            **MPRNET,
        ),
        Corpus(
            name="test1200",
            citation="Zhang and Patel, Density-Aware Single Image De-raining, CVPR 2018",
            splits=_test("Test1200", 1200, INPUT_TARGET),
            **MPRNET,
        ),
        Corpus(
            name="test2800",
            citation="Fu et al., Removing Rain from Single Images via a Deep Detail Network, CVPR 2017",
            splits={
                "test": Split(
                    ("test/Test2800", "Test2800", "testing", "rainy_image_dataset/testing", "."),
                    (Layout("rainy_image/{scene}_*.jpg", "ground_truth/{scene}.jpg"), INPUT_TARGET),
                    2800,
                )
            },
            **MPRNET,
        ),
        Corpus(
            name="snow100k",
            splits={
                "train": Split(("all", "train/all", "train", "."), (SNOW_LAYOUT,), 50000),
                "test": Split(
                    ("test", SNOW_TEST, "."),
                    (Layout("{size}/synthetic/{name}.jpg", "{size}/gt/{name}.jpg", ("*/mask/**", "all/**")),),
                    50000,
                ),
            },
            **SNOW100K,
        ),
        Corpus(name="snow100k_s", splits=_snow_test("S", 16611), **SNOW100K),
        Corpus(name="snow100k_m", splits=_snow_test("M", 16588), **SNOW100K),
        Corpus(name="snow100k_l", splits=_snow_test("L", 16801), **SNOW100K),
        Corpus(
            name="lol",
            task="low_light",
            source="https://daooshee.github.io/BMVC2018website/",
            licence=UNSTATED,
            citation="Wei et al., Deep Retinex Decomposition for Low-Light Enhancement, BMVC 2018",
            splits={
                "train": Split(("our485", "train"), (Layout("low/{name}.png", "high/{name}.png"),), 485),
                "test": Split(("eval15", "test"), (Layout("low/{name}.png", "high/{name}.png"),), 15),
            },
        ),
        Corpus(
            name="lsrw",
            task="low_light",
            source="https://github.com/JianghaiSCU/R2RNet",
            licence=UNSTATED,
            citation="Hai et al., R2RNet: Low-Light Image Enhancement via Real-Low to Real-Normal Network, JVCIR 2023",
            splits={
                "train": Split(
                    ("Training data", "train", "."),
                    (Layout("{camera}/low/{name}.jpg", "{camera}/high/{name}.jpg", ("eval/**", "test/**")),),
                    5600,
                ),
                "test": Split(
                    ("Eval", "eval", "test", "."),
                    (Layout("{camera}/low/{name}.jpg", "{camera}/high/{name}.jpg", ("train*/**",)),),
                    50,
                ),
            },
        ),
        Corpus(
            name="gopro",
            splits=_gopro(
                Layout("{sequence}/blur/{frame}.png", "{sequence}/sharp/{frame}.png", ("*/blur_gamma/*",)),
                INPUT_TARGET,
            ),
            **GOPRO,
        ),
        Corpus(
            name="gopro_gamma",
            splits=_gopro(Layout("{sequence}/blur_gamma/{frame}.png", "{sequence}/sharp/{frame}.png", ("*/blur/*",))),
            **GOPRO,
        ),
        Corpus(
            name="reds",
            task="blur",
            source="https://seungjunnah.github.io/Datasets/reds",
            licence="CC BY 4.0",
            citation="Nah et al., NTIRE 2019 Challenge on Video Deblurring and Super-Resolution, CVPRW 2019",
            # The challenge keeps the sharp frames of its test split: the field measures on the validation split.
            splits={"train": _reds("train", 24000), "test": _reds("val", 3000)},
        ),
        Corpus(
            name="hide",
            task="blur",
            source="https://github.com/joanshen0508/HA_deblur",
            licence=UNSTATED,
            citation="Shen et al., Human-Aware Motion Deblurring, ICCV 2019",
            splits={"train": _hide("train", "test", 6397), "test": _hide("test", "train", 2025)},
        ),
        Corpus(
            name="raindrop",
            task="raindrops",
            source="https://github.com/rui1996/DeRaindrop",
            licence=UNSTATED,
            citation="Qian et al., Attentive Generative Adversarial Network for Raindrop Removal from a Single Image, "
            "CVPR 2018",
            # For tests only: it is what models have not seen.
            splits={"test": Split(("test_a", "."), (Layout("data/{n}_rain.png", "gt/{n}_clean.png"),), 58)},
        ),
        Corpus(
            name="waterlooed",
            task="clean",
            source="https://kedema.org/project/exploration/index.html",
            licence="research use",
            citation="Ma et al., Waterloo Exploration Database: New Challenges for Image Quality Assessment Models, "
            "IEEE TIP 2017",
            splits={
                "train": Split(
                    ("pristine_images", "exploration_database_and_code/pristine_images", "."),
                    (Layout(None, "{name}.bmp"),),
                    4744,
                )
            },
        ),
        Corpus(
            name="bsd400",
            # Its usual making: the training and the test folder of BSDS500, without the 100 of validation.
            splits=_test("BSD400", 400, Layout(None, "**/{name}.jpg", ignored=("**/val/**",))),
            **BSD,
        ),
        Corpus(
            name="cbsd68",
            splits=_test(
                "CBSD68", 68, Layout(None, "original_png/{name}.png", ("noisy*/**",)), Layout(None, "{name}.png")
            ),
            **BSD,
        ),
        Corpus(
            name="kodak24",
            task="clean",
            source="https://r0k.us/graphics/kodak/",
            licence="released by Kodak for unrestricted use",
            citation="Franzen, Kodak Lossless True Color Image Suite, 1999",
            splits=_test("Kodak24", 24, Layout(None, "{name}.png")),
        ),
        Corpus(
            name="mcmaster",
            task="clean",
            source="https://www4.comp.polyu.edu.hk/~cslzhang/CDM_Dataset.htm",
            licence=UNSTATED,
            citation="Zhang et al., Color Demosaicking by Local Directional Interpolation and Nonlocal Adaptive "
            "Thresholding, Journal of Electronic Imaging 2011",
            splits=_test("McMaster", 18, Layout(None, "{name}.tif")),
        ),
        Corpus(
            name="live1",
            task="clean",
            source="https://live.ece.utexas.edu/research/quality/",
            licence="free for research with the authors' notice",
            citation="Sheikh et al., A Statistical Evaluation of Recent Full Reference Image Quality Assessment "
            "Algorithms, IEEE TIP 2006",
            splits=_test(
                "LIVE1",
                29,
                Layout(None, "refimgs/{name}.bmp", ("jp2k/**", "jpeg/**", "wn/**", "gblur/**", "fastfading/**")),
                Layout(None, "{name}.bmp"),
            ),
        ),
        Corpus(
            name="classic5",
            task="clean",
            source="https://github.com/cszn/DnCNN/tree/master/testsets",
            licence=UNSTATED,
            citation="Foi et al., Pointwise Shape-Adaptive DCT for High-Quality Denoising and Deblocking, "
            "IEEE TIP 2007",
            splits=_test("classic5", 5, Layout(None, "{name}.bmp")),
        ),
        Corpus(
            name="cdd11",
            task="mixed",
            source="https://github.com/gy65896/OneRestore",
            licence=UNSTATED,
            citation="Guo et al., OneRestore: A Universal Restoration Framework for Composite Degradation, ECCV 2024",
            splits={
                "train": Split(("CDD-11_train", "train"), (CDD11_LAYOUT,), 13013),
                "test": Split(("CDD-11_test", "test"), (CDD11_LAYOUT,), 2200),
            },
        ),
        Corpus(
            name="paired_folders",
            task="mixed",
            source="your own pictures",
            licence="yours",
            citation="",
            splits={name: Split((name, "."), (PLAIN_FOLDERS,)) for name in ("train", "test")},
        ),
    )
}
