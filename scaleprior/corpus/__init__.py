"""Room 1: what we learn from. Label spaces, indexes in hash order, fractions, noise, shards, the synthetic world."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scaleprior._lazy import lazy_exports

if TYPE_CHECKING:
    from scaleprior.corpus.corpus import Corpus as Corpus, build_index as build_index
    from scaleprior.corpus.fraction import Fraction as Fraction
    from scaleprior.corpus.hashing import hash64 as hash64
    from scaleprior.corpus.images import ImageError as ImageError, decode as decode
    from scaleprior.corpus.importers import open_source as open_source
    from scaleprior.corpus.index import ImageRow as ImageRow
    from scaleprior.corpus.label_space import LabelSpace as LabelSpace
    from scaleprior.corpus.noise import corrupt_labels as corrupt_labels
    from scaleprior.corpus.shards import ByteReader as ByteReader, ShardWriter as ShardWriter
    from scaleprior.corpus.tar_files import tar_members as tar_members
    from scaleprior.corpus.views.header_sample import HeaderSample as HeaderSample
    from scaleprior.corpus.views.long_tail import LongTail as LongTail
    from scaleprior.corpus.views.statistics import CorpusStatistics as CorpusStatistics, LabelCount as LabelCount
    from scaleprior.corpus.world import World as World, WorldSpec as WorldSpec, contact_sheet as contact_sheet

lazy_exports(__name__)
