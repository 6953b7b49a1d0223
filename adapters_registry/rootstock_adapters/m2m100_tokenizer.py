"""M2M100's tokenizer, made of the files that its folders have: they come without tokenizer.json.

A sentencepiece model says how a text is cut, vocab.json numbers the pieces, and one token for each
language follows them. Refuses to know what is done with the tokens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from rootstock_adapters.errors import BaseError

PIECES, VOCABULARY = "sentencepiece.bpe.model", "vocab.json"
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
# Numbered in this order after the pieces (arXiv 2010.11125, and the WMT 2021 models).
LANGUAGES = {
    "m2m100": (
        "af am ar ast az ba be bg bn br bs ca ceb cs cy da de el en es et fa ff fi fr fy ga gd gl "
        "gu ha he hi hr ht hu hy id ig ilo is it ja jv ka kk km kn ko lb lg ln lo lt lv mg mk ml "
        "mn mr ms my ne nl no ns oc or pa pl ps pt ro ru sd si sk sl so sq sr ss su sv sw ta th "
        "tl tn tr uk ur uz vi wo xh yi yo zh zu"
    ),
    "wmt21": "en ha is ja cs ru zh de",
}


def fits(path: Path) -> bool:
    return (path / PIECES).is_file() and (path / VOCABULARY).is_file()


def backend(path: Path, settings: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of the folder at `path`. Raises BaseError where its files are not M2M100's."""
    from transformers.convert_slow_tokenizer import generate_merges
    from transformers.utils import sentencepiece_model_pb2_new as sentencepiece

    model = sentencepiece.ModelProto()  # type: ignore[attr-defined]
    languages = LANGUAGES.get(settings.get("language_codes", "m2m100"))
    try:
        model.ParseFromString((path / PIECES).read_bytes())
        vocabulary: dict[str, int] = json.loads((path / VOCABULARY).read_text())
        usable = sorted(vocabulary.values()) == list(range(len(vocabulary)))
    except Exception as error:  # protobuf's own class is not public
        raise BaseError(f"{path} has no readable {PIECES} and {VOCABULARY}: {error}") from error
    if not usable or languages is None or model.trainer_spec.model_type != model.trainer_spec.BPE:
        raise BaseError(f"{path}: {PIECES}, {VOCABULARY} and its language_codes are not M2M100's")
    scores = [(p.piece, p.score) for p in model.pieces if p.type == p.NORMAL]
    merges = generate_merges(vocabulary, [s for s in scores if s[0] in vocabulary])
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True))
    normal = [normalizers.Strip(left=False), normalizers.Replace(Regex(" {2,}"), " ")]
    if charsmap := model.normalizer_spec.precompiled_charsmap:
        normal.insert(0, normalizers.Precompiled(charsmap))
    tokenizer.normalizer = normalizers.Sequence(normal)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    tokens = [*SPECIAL, *(f"__{code}__" for code in languages.split())]
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in tokens])
    return tokenizer
