"""How variants of methods are written, and what is refused, by name."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from rootstock_wire.comparisons import MAX_VARIANTS, ComparisonRequest, Variant, parse_variants


def test_variants_are_methods_with_settings_between_commas() -> None:
    text = "head, lora:rank=4:learning_rate=1e-3,bottleneck:layers=0,3,full,lora:bf16=true"
    assert parse_variants([text, "supervised", "bottleneck:layers=top4"]) == [
        Variant("head", {}, "head"),
        Variant("lora", {"rank": 4, "learning_rate": 1e-3}, "lora:rank=4:learning_rate=1e-3"),
        Variant("bottleneck", {"layers": "0,3"}, "bottleneck:layers=0,3"),
        Variant("full", {}, "full"),
        Variant("lora", {"bf16": True}, "lora:bf16=true"),
        Variant("supervised", {}, "supervised"),
        Variant("bottleneck", {"layers": "top4"}, "bottleneck:layers=top4"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lorra", r"there is no method 'lorra' \(known: prompt, few-shot, head"),
        ("lora:rank", "write METHOD:SETTING=VALUE"),
        ("lora:rank=", "write METHOD:SETTING=VALUE"),
        ("lora:rnk=4", r"'lora:rnk=4': hyperparameters\.rnk: method lora has no such"),
        ("lora:rank=0", r"'lora:rank=0': hyperparameters\.rank: "),
        ("lora:rank=4:rank=8", "sets rank twice"),
        ("bottleneck:layers=tip4", r"hyperparameters\.layers: must be all, top-half"),
        ("head,head", "head is there twice"),
        ("head,,full", "there is no method ''"),
        ("lora,8", "there is no method '8'"),
        (",".join(f"lora:rank={i + 1}" for i in range(MAX_VARIANTS + 1)), "give 1 to 32 variants"),
    ],
)
def test_what_is_no_variant_is_named(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_variants([text])


def test_a_request_checks_its_variants() -> None:
    body = {"model": "demo", "training_file": "file-1", "methods": ["head", "lora:rank=4"]}
    assert ComparisonRequest.model_validate(body).seeds == 1
    for change, message in (
        ({"methods": ["lorra"]}, "there is no method 'lorra'"),
        ({"methods": []}, "at least 1 item"),
        ({"seeds": 0}, "greater than or equal to 1"),
        ({"seed": 1}, "Extra inputs"),
        ({"metric": "beauty"}, "Input should be"),
    ):
        with pytest.raises(ValidationError, match=message):
            ComparisonRequest.model_validate({**body, **change})
