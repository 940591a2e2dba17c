"""The published corpora, and pairs of one's own, as datasets of degraded and clean pictures."""

import io
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from typing import Any

import datasets
import PIL.Image
from datasets.fingerprint import Hasher

from .catalog import CORPORA
from .degradations import KINDS
from .pairing import Pair, SplitFolder, locate_split, verify_pairs

logger = datasets.logging.get_logger(__name__)


@dataclass(eq=False)
class PairedRestorationConfig(datasets.BuilderConfig):
    """Which corpus to read, and where; the inherited `name` and `data_dir` say so.

    Attributes:
        splits: "train" and "test" or one of them; empty for all that the corpus has.
        task: what the pairs of "paired_folders" suffer, one of `KINDS`; None leaves them "mixed". Other corpora know.
        strict: refuse the whole corpus when anything is wrong with it, instead of leaving pictures out with a report.
    """

    splits: tuple[str, ...] = ()
    task: str | None = None
    strict: bool = False

    @cached_property
    def folders(self) -> list[SplitFolder]:
        """Where the splits lie, listed once.

        Raises:
            ValueError: a split or `task` does not suit the corpus, or `data_dir` is not given.
            OSError: `data_dir` is missing, cannot be read, or does not look like the corpus.
        """
        if self.task is not None and (self.name != "paired_folders" or self.task not in KINDS):
            raise ValueError(
                f"`task` must be one of {', '.join(KINDS)} and given for paired_folders only, got {self.task!r} for "
                f"{self.name}; leave it out where the corpus knows its task"
            )
        corpus = CORPORA[self.name]
        return [locate_split(corpus, split, self.data_dir) for split in self.splits or corpus.splits]

    def create_config_id(self, config_kwargs: dict[str, Any], custom_features: datasets.Features | None = None) -> str:
        """Name the cache after the listing, so that a changed, added or removed file makes a new one.

        Args:
            config_kwargs: unused: everything they say is in the listing.
            custom_features: unused: the columns are fixed.
        """
        listing = [
            [folder.split, asdict(folder.layout), [tuple(photograph) for photograph in folder.photographs]]
            for folder in self.folders
        ]
        return f"{self.name}-{Hasher.hash([listing, self.task, self.strict])}"


class PairedRestoration(datasets.GeneratorBasedBuilder):
    """Builder over the folders of a corpus as it was downloaded; one configuration for each entry of `CORPORA`.

    Columns: `degraded` (None in corpora of clean pictures only) and `clean`, RGB, stored as paths: pictures stay where
    they are, and publishing embeds them; `task`, one of `KINDS`, several joined by `+`, "mixed" or "clean";
    `severity`, None because nobody measured it; `record`, empty because no degradation was drawn; `file_name`, the
    degraded picture's, relative to the folder of the split; `index`, its place among the pairs that the names make.

    Give `dataset_name`, because `datasets` names the cache after this module otherwise.
    """

    BUILDER_CONFIG_CLASS = PairedRestorationConfig
    BUILDER_CONFIGS = [
        PairedRestorationConfig(name=corpus.name, description=f"{corpus.citation} ({corpus.source})")
        for corpus in CORPORA.values()
    ]

    def _info(self) -> datasets.DatasetInfo:
        features = {
            "degraded": datasets.Image(mode="RGB"),
            "clean": datasets.Image(mode="RGB"),
            "task": datasets.Value("string"),
            "severity": datasets.Value("float32"),
            "record": datasets.Value("string"),
            "file_name": datasets.Value("string"),
            "index": datasets.Value("int64"),
        }
        corpus = CORPORA[self.config.name]
        return datasets.DatasetInfo(
            features=datasets.Features(features),
            homepage=corpus.source,
            license=corpus.licence,
            citation=corpus.citation,
        )

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        # A stream begins at once and trusts the headers; a table decodes every file, and remembers the result.
        reports = [verify_pairs(folder, decode=not dl_manager.is_streaming) for folder in self.config.folders]
        faults = "\n".join(filter(None, map(str, reports)))
        if faults and (self.config.strict or not all(report.pairs for report in reports)):
            raise ValueError(f"`data_dir` must hold sound pairs, got: {faults}")
        # The description is stored with the cache, so that the report is given again when the cache is used.
        self.info.description = faults
        # One list for each split: `datasets` shards it over processes, ranks and workers.
        return [
            datasets.SplitGenerator(name=report.split, gen_kwargs={"pairs": list(report.pairs)}) for report in reports
        ]

    def _generate_examples(self, pairs: list[Pair]) -> Iterator[tuple[int, dict[str, Any]]]:
        for pair in pairs:
            example = {
                "degraded": pair.degraded,
                "clean": _cut_border(pair.clean, pair.clean_border) if pair.clean_border else pair.clean,
                "task": self.config.task or pair.task,
                "severity": None,
                "record": "",
                "file_name": pair.name,
                "index": pair.index,
            }
            yield pair.index, example


# The degraded versions of a clean picture follow each other.
@lru_cache(maxsize=1)
def _cut_border(path: str, border: int) -> dict[str, Any]:
    """Return a picture without its border, as an encoded picture."""
    encoded = io.BytesIO()
    with PIL.Image.open(path) as image:
        inside = (border, border, image.width - border, image.height - border)
        image.crop(inside).save(encoded, "png")
    return {"path": None, "bytes": encoded.getvalue()}


def load_paired(
    name: str,
    data_dir: str | os.PathLike,
    split: str,
    *,
    task: str | None = None,
    strict: bool = False,
    cache_dir: str | os.PathLike | None = None,
    streaming: bool = False,
) -> datasets.Dataset | datasets.IterableDataset:
    """Load a split of a corpus from the folder into which it was unpacked; pictures are decoded on access.

    What cannot be used is left out, and one warning lists it.

    Args:
        name: key of `CORPORA`.
        data_dir: the corpus' folder.
        split: "train" or "test".
        task: what the pairs of "paired_folders" suffer, one of `KINDS`; other corpora know.
        strict: raise instead of leaving pairs out.
        cache_dir: where `datasets` keeps its tables; None for its own choice.
        streaming: read pairs as they are asked for, without a table; files are verified by their headers only.

    Returns:
        The columns of `PairedRestoration`.

    Raises:
        ValueError: the corpus or the split is unknown, no pair can be used, or not every one and `strict` is set.
        OSError: the folder is missing, cannot be read, or does not look like the corpus.
    """
    if name not in CORPORA:
        raise ValueError(f"`name` must be one of {', '.join(CORPORA)}, got {name!r}; see docs/data.md")
    builder = PairedRestoration(
        config_name=name,
        dataset_name="paired_restoration",
        cache_dir=cache_dir,
        data_dir=str(data_dir),
        splits=(split,),
        task=task,
        strict=strict,
    )
    if streaming:
        dataset = builder.as_streaming_dataset(split=split)
    else:
        builder.download_and_prepare()
        dataset = builder.as_dataset(split=split)
    if builder.info.description:
        logger.warning(builder.info.description)
    return dataset
