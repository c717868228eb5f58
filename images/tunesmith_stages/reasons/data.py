"""Reasons: it is stalled by the data."""

from __future__ import annotations

from tunesmith_stages.reasons.exit_codes import ExitCode
from tunesmith_stages.reasons.row import Reason

_DATA = ExitCode.BAD_DATA
_MISSING = ExitCode.MISSING_INPUT
_CONFIG = ExitCode.BAD_CONFIG

DATA = (
    Reason(
        ("SplitNotFound", "SubsetNotFound"),
        "The dataset has no such split or subset; the sentence says which it has.",
        "Correct `split` or `subset`.",
        (_CONFIG,),
    ),
    Reason(
        ("LoadingScript",),
        "The dataset is made by a script, which would have to be run.",
        "Use one with data files, or make them yourself and copy them to the volume.",
        (_DATA,),
    ),
    Reason(
        ("BadDatasetCard",),
        "The card of the dataset (README.md) names data files that are not there or not its own, or its YAML cannot "
        "be read.",
        "Another `revision`, or copy the data files to the volume.",
        (_DATA,),
    ),
    Reason(
        ("ConfigMapNotFound",),
        "The ConfigMap, or its key, is not there.",
        "Make it in the job's namespace; for `tunesmith run` put it into the job's file.",
        (_MISSING,),
    ),
    Reason(
        ("UnknownFileType", "NoRowsLeft", "NoRows"),
        "The dataset has no `.json`, `.jsonl`, `.csv`, `.parquet` or `.txt` file, or no row that fits into "
        "`sequenceLength`.",
        "The path; or raise `training.sequenceLength`.",
        (_DATA, _CONFIG),
    ),
    Reason(
        ("EmptyDataset", "NoUsableRows"),
        "The dataset has no rows, or none that can be used (with `onBadRow: Skip`).",
        "Mend the data, or look at `format` and `columns`: the first bad row is quoted.",
        (_DATA,),
    ),
    Reason(
        ("NotJson", "NotUtf8", "NulByte", "BadCsv", "BadParquet", "WrongFileType", "WrongShape"),
        "A file or a row of it is not what its ending says; file, row and place are named.",
        "The hint says how to mend it: another encoding, another ending, or that row.",
        (_DATA,),
    ),
    Reason(
        ("BadRow", "RowTooLong"),
        "A row cannot be learnt from; file, row and field are named.",
        "Mend that row, or leave such rows out with `onBadRow: Skip`.",
        (_DATA,),
    ),
    Reason(
        ("ControlTokenInText",),
        "A row holds the text of a control token, which this tokenizer or template cannot keep apart from the control"
        " token itself.",
        "Take it out of the row, or `onBadRow: Skip`.",
        (_DATA,),
    ),
    Reason(
        ("FileNameNotUtf8",),
        "A file's name is not UTF-8.",
        "Rename the file.",
        (_DATA,),
    ),
    Reason(
        ("MissingColumn",),
        "No known format fits, or a column that is named is not there; those that there are are listed.",
        "`format` and `columns` of the dataset ([Data](data.md#formats)).",
        (_DATA, _CONFIG),
    ),
    Reason(
        ("PreferenceData",),
        "The rows compare answers or judge them, and supervised fine-tuning learns one.",
        "`training.method` DPO or ORPO for pairs, KTO for labels; or the chosen answers alone: `columns: {prompt: "
        "..., response: chosen}`.",
        (_DATA,),
    ),
    Reason(
        ("NoPreferences",),
        "The rows do not say what `training.method` learns from: two answers for DPO and ORPO, a label for KTO.",
        "`columns` of the dataset, or another `training.method` ([Data](data.md#preferences-dpo-orpo-and-kto)).",
        (_DATA,),
    ),
    Reason(
        ("OneKindOfAnswer",),
        "All rows of a KTO training are desirable, or none is; where the validation set took the others, that is said.",
        "Rows of the other kind, or `training.method: SFT` if all answers are to be learnt.",
        (_DATA,),
    ),
    Reason(
        ("MediaData",),
        "The rows hold pictures, video or sound.",
        "A dataset of text, or `onBadRow: Skip` if only some rows do.",
        (_DATA,),
    ),
    Reason(
        ("BadDatasetInfo",),
        "`dataset_info.json` has no such entry, or one that leads nowhere, out of the folder, or to what is not read.",
        "Correct the entry, or `datasetInfo`.",
        (_DATA, _CONFIG),
    ),
    Reason(
        ("BadTags",),
        "`tags` has one word for two roles.",
        "`tags` of the dataset.",
        (_CONFIG,),
    ),
)
