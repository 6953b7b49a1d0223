"""Requests that took other servers down or over, as their advisories and issues describe them.

Each is what a caller would send to us instead, and how it must be refused. The id names the record.
"""

from __future__ import annotations

import gzip
import json

from rootstock_wire.registry import PEFT_FILES

from tests.server.attack import (
    COMPLETIONS,
    EMBEDDINGS,
    ESCAPE,
    FILES,
    JOBS,
    JSON,
    LOOP,
    METADATA_SERVICE,
    PICKLE,
    PICKLED,
    WEIGHTS,
    A,
    Attack,
    Fields,
    asks,
    headed,
    knocks,
    offers,
    says,
    sends,
    tarred,
    tensor,
)

CODE = [
    # vLLM with Mooncake unpickled whatever came over ZeroMQ, on all interfaces
    Attack("CVE-2025-32444", COMPLETIONS, PICKLE, 400),
    # SGLang unpickled the tensors of an adapter that was uploaded
    knocks("CVE-2026-15969", "/load_lora_adapter_from_tensors", {"serialized_tensors": PICKLED}),
    # the same behind a list of forbidden classes, which was gone round
    knocks("CVE-2026-86793", "/update_weights_from_tensor", {"tensors": [PICKLED]}),
    # SGLang ran a caller's own logit processor out of a dill
    asks("CVE-2026-7304", "custom_logit_processor", PICKLED),
    # LightLLM unpickled messages of a WebSocket
    knocks("CVE-2026-26220", "/pd_register", PICKLED),
    # torch.load(weights_only=True) ran code all the same
    sends("CVE-2025-32434", "adapter_model.pt", PICKLE),
    # vLLM imported a repository's auto_map although trust_remote_code was off
    asks("CVE-2026-22807", "trust_remote_code", True),
    # vLLM's loaders of some models trusted remote code whatever the operator said
    Attack("CVE-2026-27893", COMPLETIONS, {"model": "evil/Nemotron", "prompt": "hi"}, 404, "model",
           twin={"model": "evil/Nemotron"}),
    # vLLM took sibling files from another revision than the pinned one
    asks("CVE-2026-47155", "revision", "refs/pr/1"),
    # llama-cpp-python rendered a model's template outside of a sandbox
    says("CVE-2024-34359", "chat_template", chat_template=ESCAPE),
    # SGLang rendered a template on its route for reranking
    knocks("CVE-2026-5760", "/v1/rerank", {"query": ESCAPE, "documents": ["a"]}),
    # vLLM's sandboxed template ran for ever, and with it the thread that renders for all
    says("CVE-2026-115911", "chat_template", chat_template=LOOP),
    # the fix was gone round by the template's variables
    says("CVE-2026-115918", "chat_template_kwargs", chat_template_kwargs={"chat_template": LOOP}),
    # vLLM took any variable of the template's renderer, `tokenize` too
    says("CVE-2025-62426", "chat_template_kwargs", chat_template_kwargs={"tokenize": False}),
    # llama.cpp read a GGUF's own counts before it checked them
    sends("CVE-2024-23605", "rows.jsonl", b"GGUF\x03\0\0\0" + b"\xff" * 64),
    # llama.cpp's server wrote behind its cache where fewer tokens than none were discarded
    asks("CVE-2026-21869", "n_discard", -1),
    # llama.cpp's server restored a slot from a file that the caller named
    knocks("CVE-2026-43629", "/slots/0?action=restore", {"filename": "../../evil.bin"}),
    # vLLM read a caller's tensors: sparse ones wrote outside of their memory
    asks("CVE-2025-62164", "prompt_embeds", PICKLED),
    # the check against them was a switch of the whole process, raced by two requests
    asks("CVE-2026-56340", "prompt_embeds", [PICKLED, PICKLED]),
    # Ray's dashboard started a caller's job without asking who it was
    knocks("CVE-2023-48022", "/api/jobs/", {"entrypoint": "id"}),
    # and fetched any address
    knocks("CVE-2023-48023", f"/log_proxy?url={METADATA_SERVICE}", method="GET"),
]  # fmt: skip

PLACES = [
    # MLflow's registry read files outside of its folder
    Attack("CVE-2023-1177", "/v1/adapters/..%2f..%2fetc%2fpasswd", None, 404, None, "GET"),
    # and again, behind a fragment
    Attack("CVE-2024-1483", COMPLETIONS, {"model": "a#../../etc/passwd", "prompt": "hi"}, 404,
           "model", twin={"model": "a#../../etc/passwd"}),
    # and again, quoted
    Attack("CVE-2023-6976", COMPLETIONS, {"model": "%2e%2e%2fetc%2fpasswd", "prompt": "hi"}, 404,
           "model", twin={"model": "%2e%2e%2fetc%2fpasswd"}),
    # and wrote code that it then ran
    Attack("CVE-2026-2033", JOBS, {"model": "toy", "training_file": "../../evil.py"}, 400,
           "training_file"),
    # and again, in the id of a trace
    Attack("CVE-2026-53995", f"{FILES}/..%2f..%2fetc%2fpasswd", None, 404, None, "GET"),
    # Triton opened what stood in a model's name
    knocks("CVE-2026-47487", "/v2/models/..%2f..%2ftmp/infer", {"inputs": []}),
    # and wrote there, where a model was loaded from a request
    knocks("CVE-2023-31036", "/v2/repository/models/x/load", {"parameters": {"file:../x": "AA=="}}),
    # Python's filter for tar archives let a link out
    sends("CVE-2025-4517", "rows.tar", tarred()),
    # the same by the name of something else
    sends("CVE-2026-11940", "rows.csv", tarred().replace(b"ustar", b"\xff\xff\xff\xff\xff")),
    # MLflow let anybody write over another's artifacts
    knocks("CVE-2026-2651", "/api/2.0/mlflow-artifacts/artifacts/1/model.bin", None, "PUT"),
    # vLLM fetched any address that a message named
    says("CVE-2026-24779", "messages[0].content[0].type",
         [{"type": "image_url", "image_url": {"url": METADATA_SERVICE}}]),
    # the check and the fetch read an address differently
    says("CVE-2026-25960", "messages[0].content[0].type",
         [{"type": "image_url", "image_url": {"url": "http://ok.example\\@169.254.169.254/"}}]),
    # and its batch runner did not check at all
    knocks("CVE-2026-34753", "/v1/batches", {"input_file_id": METADATA_SERVICE}),
    # LocalAI installed models from any address
    knocks("CVE-2026-59707", "/models/apply", {"url": METADATA_SERVICE}),
    # Starlette held a form's fields of any size in memory
    sends("CVE-2024-47874", "rows.jsonl", b"{}\n", ("more", b"x" * 1_000_000)),
    # and any number of them
    sends("CVE-2023-30798", "rows.jsonl", b"{}\n", *[("more", b"x")] * 2000),
    # python-multipart needed exponential time for a content type
    Attack("CVE-2024-24762", COMPLETIONS, b"{}", 400,
           headers={"content-type": 'application/x-www-form-urlencoded; !="' + "\\" * 8000}),
    # SGLang unpacked an upload before it looked at its size
    Attack("CVE-2026-109225", COMPLETIONS, gzip.compress(b" " * 50_000_000), 400,
           headers=JSON | {"content-encoding": "gzip"}),
]  # fmt: skip

IMPORTS = {"base_model_class": "X", "parent_library": "os"}
FOLDERS = [
    # PEFT imported the module that a config named
    offers("peft#3085", PEFT_FILES[0], auto_mapping=IMPORTS),
    # and another one
    offers("transformers#46482", PEFT_FILES[0], megatron_core="os"),
    # and trusted remote code for a prompt's tokenizer
    offers("peft#2888", PEFT_FILES[0], tokenizer_kwargs={"trust_remote_code": True}),
    # and a config said which remote code to trust, whatever the caller said
    offers("CVE-2026-5241", PEFT_FILES[0], trust_remote_code=True),
    offers("CVE-2025-66448", PEFT_FILES[0], auto_map={"AutoModel": "evil/repo--x.X"}),
    # a pattern that takes for ever to not match
    offers("CVE-2025-71379-pattern", PEFT_FILES[0], rank_pattern={"(a+)+" * 20 + "$": 2}),
    # pickled weights under the name of safe ones
    offers("CVE-2026-24747", PEFT_FILES[1], PICKLE),
    offers("CVE-2026-33298", PEFT_FILES[1], b"GGUF\x03\0\0\0" + b"\xff" * 64),
    # one name twice: who audits reads the one, who loads the other
    offers("safetensors-twice", PEFT_FILES[1], headed(
        f"{{{tensor(A, [2, 4], 0, 32)}, {tensor(A, [2, 4], 32, 64)}}}", bytes(64))),
    # a shape whose size overflows
    offers("mlx#3364", PEFT_FILES[1], headed(f"{{{tensor(A, [1 << 62, 4], 0, 0)}}}", b"")),
    # a header of a hundred megabytes, which the library allows
    offers("safetensors-header", PEFT_FILES[1], (100_000_000).to_bytes(8, "little") + WEIGHTS[8:]),
    # a file cut short, which killed who had mapped it into memory
    offers("TensorRT-LLM#17368", PEFT_FILES[1], WEIGHTS[:-8]),
]  # fmt: skip

DEPTH = 100_000


def nested(levels: int) -> Fields:
    """A JSON schema of tables in one another."""
    schema: Fields = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def a_tool(schema: Fields) -> list[Fields]:
    return [{"type": "function", "function": {"name": "f", "parameters": schema}}]


REGEX = "(" * 300 + "a+" + ")+" * 300 + "$"
LOAD = [
    # vLLM made as many copies of a request as it asked for, before anything else ran
    asks("CVE-2026-34756", "n", 1_000_000),
    asks("GHSA-3mwp-wvh9-7528", "best_of", 1_000_000),
    # vLLM's limit of one front end was missing in the other
    asks("PYSEC-2026-4350", "logprobs", 1_000_000, {"logprobs": 1_000_000}),
    asks("PYSEC-2026-4350-ids", "logprob_token_ids", list(range(100_000))),
    # errors of vLLM's structured outputs ended its engine
    Attack("CVE-2026-105757", COMPLETIONS, {"model": "toy", "prompt": "hi", "structured_outputs": {
        "json": "{"}}, 400, "structured_outputs.json", twin={"structured_outputs": {"json": "{"}}),
    asks("PYSEC-2025-54", "structured_outputs", {}, {"structured_outputs": {}}),
    asks("CVE-2025-48942", "guided_json", '{"properties": {"a": {"type": "wat"}}}'),
    # vLLM compiled a caller's regular expression for as long as it took
    Attack("CVE-2026-55574", COMPLETIONS, {"model": "toy", "prompt": "hi", "structured_outputs": {
        "regex": REGEX * 5}}, 400, "structured_outputs.regex",
        twin={"structured_outputs": {"regex": REGEX * 5}}),
    # and forgot one of the libraries that do
    asks("PYSEC-2026-3933", "guided_regex", REGEX),
    # and kept every grammar that it had ever compiled, on disk
    Attack("CVE-2025-29770", COMPLETIONS, {"model": "toy", "prompt": "hi", "structured_outputs": {
        "json": {"enum": ["x" * 100] * 700}}}, 400, "structured_outputs.json"),
    # vLLM's own parsers needed exponential time for a text
    says("CVE-2025-71379", "tools[0].function.name",
         tools=[{"type": "function", "function": {"name": "[" * 100_000}}]),
    # a salt of another type ended vLLM's engine
    asks("CVE-2026-105756", "cache_salt", 7),
    # and forged ids of a cache another's answer
    asks("CVE-2026-105754", "kv_transfer_params", {"remote_block_ids": [0, 1]}),
    # a prompt longer than the context ended vLLM's engine
    asks("vllm#40302", "prompt", "x" * 5000, {"text": "x" * 5000}),
    # text-embeddings-inference never came back from a text longer than its batch
    Attack("text-embeddings-inference#723", EMBEDDINGS, {"model": "reader", "input": "x" * 5000},
           400, "input"),
    # ids that the vocabulary does not have ended the engine: in one network, 12 nodes of 14
    asks("vllm#16529", "logit_bias", {"999999": 100}, {"logit_bias": {999_999: 100.0}}),
    asks("gonka#1170", "stop_token_ids", [999_999]),
    asks("vllm#11375", "prompt", [1, 999_999], {"token_ids": {"ids": [1, 999_999]}}),
    Attack("vllm#11375-negative", COMPLETIONS, {"model": "toy", "prompt": [-1]}, 400, "prompt[0]",
           twin={"token_ids": {"ids": [-1]}}),
    # nested deeper than a parser can count
    Attack("triton-2.74-lists", COMPLETIONS, b"[" * DEPTH + b"]" * DEPTH, 400),
    Attack("triton-2.74-tables", COMPLETIONS, b'{"a":' * DEPTH + b"1" + b"}" * DEPTH, 400),
    # less deep: parsed by one, and too deep for the next that reads it
    says("triton-2.74-tool", "tools[0].function.parameters", tools=a_tool(nested(300))),
    says("triton-2.74-format", "response_format.json_schema.schema", response_format={
        "type": "json_schema", "json_schema": {"name": "a", "schema": nested(300)}}),
    says("triton-2.74-schema", "structured_outputs.json", structured_outputs={
        "json": nested(450)}),
    Attack("triton-2.74-text", COMPLETIONS, {"model": "toy", "prompt": "hi", "structured_outputs": {
        "json": json.dumps(nested(300))}}, 400, "structured_outputs.json",
        twin={"structured_outputs": {"json": json.dumps(nested(300))}}),
    # more fields than anybody reads, and more of what one field may have few of
    Attack("fields", COMPLETIONS, {"model": "toy", "prompt": "hi", **{
        f"f{n}": n for n in range(100_000)}}, 400),
    asks("biases", "logit_bias", {f"x{n}": 1 for n in range(100_000)}),
    Attack("ids", COMPLETIONS, {"model": "toy", "prompt": [-1] * 500_000}, 400, "prompt[0]"),
    says("messages", "messages", messages=[{}] * 500_000),
]  # fmt: skip

ROUTES = [
    # vLLM's routes outside of /v1 asked nobody for a key
    knocks("vllm-security-invocations", "/invocations", {"model": "toy", "prompt": "hi"}),
    knocks("vllm-security-pause", "/pause"),
    knocks("vllm-security-collective-rpc", "/collective_rpc", {"method": "shutdown"}),
    # MLflow's routes of another framework were mounted beside its door
    knocks("CVE-2026-2652", "/ajax-api/3.0/jobs", {"function": "os.system"}),
    knocks("CVE-2026-0545", "/ajax-api/3.0/jobs/1", method="GET"),
]

ATTACKS = [*CODE, *PLACES, *FOLDERS, *LOAD, *ROUTES]
