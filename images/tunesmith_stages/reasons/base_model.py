"""Reasons: it is stalled by the base model, or by where the sources come from."""

from __future__ import annotations

from tunesmith_stages.reasons.exit_codes import ExitCode
from tunesmith_stages.reasons.row import Reason, Sign, Where

_DATA = ExitCode.BAD_DATA
_MISSING = ExitCode.MISSING_INPUT
_PERMISSION = ExitCode.NO_PERMISSION
_CONFIG = ExitCode.BAD_CONFIG
_GATE = ExitCode.GATE_FAILED

BASE_MODEL = (
    Reason(
        ("SourceNotFound",),
        "Nothing is at the path.",
        "Put it there, or correct `volume.path`, which is relative to the root of the volume (and below "
        "`storage.subPath`).",
        (_MISSING,),
    ),
    Reason(
        ("HubAccessDenied",),
        "The hub refuses access: the repository is gated or private, or does not exist; or the token is not valid.",
        "Accept its licence on its page, with the token's account; name the Secret with the token in `tokenSecretRef`"
        " (`tunesmith run`: HF_TOKEN, MODELSCOPE_API_TOKEN).",
        (_PERMISSION,),
        signs=(
            Sign(Where.PROGRAM),
            Sign(Where.LOG, text=r"\b401 Client Error\b"),  # requests, and huggingface_hub in words of its own
            Sign(Where.LOG, text="Client error '401 Unauthorized'"),  # httpx, and with it huggingface_hub
            Sign(Where.LOG, text="Invalid credentials in Authorization header"),  # the answer of Hugging Face
            Sign(Where.LOG, text=r"\[E3001\] \[401\]"),  # modelscope_hub
        ),
    ),
    Reason(
        ("InvalidToken",),
        "The Secret holds no token, or more than that.",
        "It must hold the token alone.",
        (_CONFIG,),
    ),
    Reason(
        ("RepositoryNotFound",),
        "The hub has no such repository, or does not show it to everybody.",
        "`repo` is written OWNER/NAME; a private one needs `tokenSecretRef`.",
        (_MISSING,),
    ),
    Reason(
        ("RevisionNotFound",),
        "The repository has no such branch, tag or commit.",
        "Correct `revision`.",
        (_MISSING,),
    ),
    Reason(
        ("RevisionNotPinned",),
        "ModelScope does not tell which commit the branch is at.",
        "Give the commit's full hash as `revision`.",
        (_CONFIG,),
    ),
    Reason(
        ("HubAnswerUnknown",),
        "What answers at the hub's address does not speak its protocol.",
        "The address of the mirror (`network`; `tunesmith run`: HF_ENDPOINT, MODELSCOPE_ENDPOINT).",
        (_CONFIG,),
    ),
    Reason(
        ("DownloadWrong",),
        "A file comes with another hash or size than the hub lists, or is not handed out.",
        "A mirror or proxy on the way hands out something old: have it forget the file.",
        (_DATA,),
    ),
    Reason(
        ("UnsafeFileName",),
        "A repository lists a file whose name leads out of its folder.",
        "Do not use it.",
        (_DATA,),
    ),
    Reason(
        ("JobIsItself",),
        "The job names itself as its base.",
        "Name another one.",
        (_CONFIG,),
    ),
    Reason(
        ("NotAModel", "MissingConfig", "BadConfigFile"),
        "The folder is no Hugging Face model: `config.json` is missing or damaged.",
        "Copy the whole folder again.",
        (_DATA, _MISSING),
    ),
    Reason(
        ("TokenizerMissing", "EosTokenMissing", "TokensBeyondEmbedding", "TokenOutOfVocabulary"),
        "The tokenizer is missing, damaged, has no end token, or does not belong to the weights.",
        "Copy the tokenizer of this model; the sentence says what it lacks.",
        (_DATA, _CONFIG),
    ),
    Reason(
        ("WeightsMissing", "MissingShard", "DamagedWeights", "BadWeights", "BaseIncomplete", "BaseUnreadable"),
        "Weights are missing, cut short, or not what the index says.",
        "Copy the named file again. A pointer of Git LFS in its place looks like this too.",
        (_DATA, _MISSING),
    ),
    Reason(
        ("UnsafeWeights",),
        "The weights are pickled, which can run code. They are refused.",
        "Save the model as safetensors on a machine that you trust.",
        (_DATA,),
    ),
    Reason(
        ("UnsupportedArchitecture", "PreTokenizerUnknown", "TokenizerMismatch"),
        "transformers or llama.cpp does not know the architecture, or splits text in another way.",
        "Another base model.",
        (_CONFIG, _GATE),
    ),
    Reason(
        ("BaseDtypeUnsupported",),
        "The base is stored in a quantized form, into which no adapter can be merged.",
        "The base in its original precision.",
        (_CONFIG,),
    ),
    Reason(
        ("QuantizedBase",),
        "The base's weights are quantized already (GPTQ, AWQ, bitsandbytes, FP8). They can neither be trained nor "
        "converted.",
        "Take the original model in 16 or 32 bits.",
        (_DATA,),
    ),
    Reason(
        ("EmptyTensors",),
        "Tensors of the base have no content: a ZeRO-3 training saved them without gathering them.",
        "Save the model again, gathered.",
        (_DATA,),
    ),
    Reason(
        ("VocabularySizeDiffers",),
        "`vocab_size` in the base's config.json is not the number of rows of its embedding.",
        "Correct it, or take the config.json that belongs to the weights.",
        (_DATA,),
    ),
    Reason(
        ("WeightsShapeDiffers",),
        "A tensor of the base has another shape than config.json makes it.",
        "Take the config.json that belongs to the weights.",
        (_DATA,),
    ),
    Reason(
        ("HeadMissing",),
        "The base has no output layer, and config.json does not say that the embedding is used instead.",
        "Set `tie_word_embeddings` to true if it is; else fetch the base again.",
        (_DATA,),
    ),
    Reason(
        ("HeadWouldBeLost",),
        "config.json says that the embedding is the output layer, but there is another one, which differs.",
        "Set `tie_word_embeddings` to false if it was trained so; else remove the tensor.",
        (_DATA,),
    ),
    Reason(
        ("GradientCheckpointingUnsupported",),
        "The base's architecture cannot be trained with gradient checkpointing.",
        "Set `training.gradientCheckpointing` to false.",
        (_CONFIG,),
    ),
    Reason(
        ("ModelCannotBeTrained",),
        "A small model of the base's architecture could not take one step of training; the log `twin.log` says more.",
        "Choose another base.",
        (_CONFIG,),
    ),
    Reason(
        ("RowsLongerThanContext",),
        "A prepared row has more tokens than the base reads at once.",
        "Lower `training.sequenceLength`.",
        (_CONFIG,),
    ),
    Reason(
        ("NotAGguf",),
        "`model.gguf` names no whole GGUF file with a model.",
        "Name a GGUF file of version 2 or 3.",
        (_DATA,),
    ),
    Reason(
        ("GgufInParts",),
        "The GGUF file is one part of several.",
        "`llama-gguf-split --merge FIRST-PART model.gguf`, and name the result.",
        (_DATA,),
    ),
    Reason(
        ("GgufWithoutTemplate",),
        "The GGUF that is the base has no chat template, or one that refuses every conversation.",
        "The GGUF of the model that was tuned for conversations.",
        (_CONFIG,),
    ),
)
