"""What other trainers call their options, and what they are here: a field, or a reason why there is none.

The names are those of LLaMA-Factory 0.9.5, ms-swift 4.6, TRL 1.16, transformers 5.23 and Axolotl. Who writes one of
them into a job is answered with its entry; docs/training.md shows all of them, made from these tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Option:
    """What others can be told."""

    names: tuple[str, ...]
    """Their spellings of it."""
    field: str = ""
    """The field that does it, below `spec`; empty if there is none."""
    note: str = ""
    """How it is given there, or why there is no field and what to do instead."""

    @property
    def answer(self) -> str:
        """What someone is told who looks for it, as the end of a sentence."""
        if not self.field:
            return f"there is none for it: {self.note}"
        return f"use `{self.field}`" + (f": {self.note}" if self.note else "")


def _field(field: str, names: str, note: str = "") -> Option:
    return Option(tuple(names.split()), field, note)


def _none(names: str, note: str) -> Option:
    return Option(tuple(names.split()), "", note)


OPTIONS: Mapping[str, Sequence[Option]] = {
    "Model and method": (
        _field("model", "model_name_or_path base_model model_id", "with its source"),
        _field("model.huggingFace.revision", "model_revision", "`modelScope` has one, too"),
        _field("model.huggingFace.tokenSecretRef", "hf_hub_token ms_hub_token use_auth_token",
               "`modelScope` has one, too; `tunesmith run` takes HF_TOKEN or MODELSCOPE_API_TOKEN of its environment"),
        _field("model.job", "adapter_name_or_path adapters lora_model_dir create_new_adapter adapter_folder peft_path",
               "an earlier job's adapter is merged, and a new one trained on it"),
        _field("model.chatTemplate", "template chat_template chat_template_path chat_template_jinja"),
        _field("training.method", "stage rlhf_type rl task",
               "SFT, DPO, KTO or ORPO; reward models, PPO and GRPO would need a second model, and rows that are made "
               "while it trains"),
        _field("training.finetuningType", "tuner_type train_type adapter use_peft quantization_bit load_in_4bit "
               "quant_bits quant_method quantization_method", "QLoRA holds the base in 4 bits"),
        _none("load_in_8bit quantization_type double_quantization bnb_4bit_quant_type bnb_4bit_compute_dtype "
              "bnb_4bit_use_double_quant bnb_4bit_quant_storage use_bnb_nested_quant hqq_axis",
              "QLoRA's 4 bits are NF4 with the scales quantized again; 8 bits would take twice the memory"),
        _none("rope_scaling shift_attn mixture_of_depths resize_vocab",
              "the model is served as its config.json says: change the base itself, and train that"),
        _none("train_from_scratch random_init_weights",
              "it begins with the weights of the base; a base with random ones can be a `volume`"),
        _none("trust_remote_code external_plugins custom_register_path plugins",
              "code that comes with a model is never run: transformers and llama.cpp must know the architecture"),
        _none("freeze_vision_tower freeze_multi_modal_projector freeze_vit freeze_aligner vit_lr aligner_lr "
              "image_max_pixels image_min_pixels video_max_pixels video_fps max_pixels media_dir",
              "text is trained, not images, video or sound"),
    ),
    "What is trained": (
        _field("training.lora.rank", "lora_rank lora_r"),
        _field("training.lora.alpha", "lora_alpha"),
        _field("training.lora.dropout", "lora_dropout"),
        _field("training.lora.targetModules", "lora_target lora_target_modules target_modules lora_target_linear",
               "the ends of names, or AllLinear"),
        _none("target_regex freeze_parameters_regex trainable_parameters_regex",
              "a name is clear about what it hits, and `rehearse` checks each; full names of modules are taken, too"),
        _field("training.lora.useRslora", "use_rslora peft_use_rslora"),
        _field("training.lora.useDora", "use_dora peft_use_dora"),
        _field("training.lora.plusLrRatio", "loraplus_lr_ratio lorap_lr_ratio"),
        _none("loraplus_lr_embedding", "embeddings get no adapter"),
        _none("modules_to_save lora_modules_to_save additional_target add_tokens add_special_tokens "
              "new_special_tokens new_special_tokens_config tokens special_tokens",
              "no tokens are added, and beside an adapter nothing is trained: take a base that has the tokens; "
              "`finetuningType: Full` trains embeddings, too"),
        _none("init_lora_weights init_weights pissa_init pissa_iter pissa_convert loftq_config peft_init_lora_weights",
              "an adapter begins as no change: so it can be merged into the original weights, and DPO and KTO ask the "
              "base itself (PiSSA and LoftQ change the base)"),
        _none("lora_bias bias rank_pattern alpha_pattern layers_to_transform peft_layers_to_transform "
              "target_parameters lora_target_parameters layer_replication",
              "each adapted module has the one rank and alpha, in all layers, and no bias; fused experts get none"),
        _none("adalora_target_r vera_rank oft_rank oft_target boft_block_size use_llama_pro use_swift_lora "
              "lisa_activated_layers module_dropout reft_rank",
              "LoRA, rsLoRA, DoRA and LoRA+ are there; AdaLoRA, VeRA, OFT, LLaMA-Pro and others are not: what is "
              "merged must be proven equal to what was trained, for each of them"),
        _field("training.freeze.trainableLayers", "freeze_trainable_layers num_layer_trainable"),
        _none("freeze_trainable_modules freeze_extra_modules freeze_parameters freeze_parameters_ratio "
              "trainable_parameters unfrozen_parameters name_module_trainable",
              "`Freeze` trains whole layers, the last ones; for some modules of all layers take LoRA"),
    ),
    "Data": (
        _field("datasets", "dataset dataset_name train_dataset dataset_dir dataset_mixer"),
        _field("training.sequenceLength", "cutoff_len max_length max_seq_length sequence_len model_max_length"),
        _none("cutoff truncation_strategy truncation_mode excess_length_strategy",
              "conversations longer than `training.sequenceLength` are left out and counted, never cut: an answer "
              "without an end teaches not to end; plain texts are cut into pieces"),
        _field("datasets[].columns", "dataset_text_field field_messages field_instruction"),
        _field("training.packing", "sample_packing neat_packing padding_free packing_strategy",
               "samples of a row never see each other"),
        _field("datasets[].maxSamples", "max_samples max_train_samples"),
        _field("datasets[].weight", "mix_strategy interleave interleave_probs interleave_prob",
               "all rows of all datasets are mixed, each dataset so many times"),
        _field("training.validation.fraction", "val_size val_set_size split_dataset_ratio test_split_size"),
        _field("datasets[].use", "eval_dataset val_dataset test_datasets", "Validation"),
        _field("model.chatTemplate.enableThinking", "enable_thinking"),
        _field("model.chatTemplate.defaultSystem", "default_system system"),
        _none("train_on_prompt train_on_inputs completion_only_loss assistant_only_loss roles_to_train train_on_eos",
              "learnt is what the assistant says, and where it ends; data of `format: Text` are learnt as a whole"),
        _none("mask_history loss_scale train_on_last_turn",
              "each answer of a conversation is learnt; give those that are not to be a `weight: 0` in the data"),
        _none("streaming buffer_size shuffle_buffer_size lazy_tokenize",
              "rows are made once and read from memory maps, so data need not fit into memory"),
        _none("tokenized_path dataset_prepared_path overwrite_cache cache_dir load_from_cache_file cached_dataset",
              "prepared rows are kept under a key of all that they were made from: what changed is made anew"),
        _none("preprocessing_num_workers preprocessing_batch_size dataset_num_proc dataset_processes",
              "`prepare` takes the cores that it is given"),
        _none("group_by_length length_column_name shuffle disable_shuffling shuffle_dataset dataset_shuffle "
              "train_dataloader_shuffle train_sampling_strategy sampler_type curriculum_sampling",
              "the order of the rows is the seed's, on any number of processes; `packing` saves what grouping would"),
        _none("dataloader_drop_last", "the last step of an epoch has the rows that are left; none are dropped"),
        _field("training.dataloaderWorkers", "dataloader_num_workers"),
        _field("training.seed", "data_seed shuffle_seed", "one seed for everything random"),
    ),
    "Steps and learning rate": (
        _field("training.perDeviceTrainBatchSize", "micro_batch_size train_batch_size batch_size"),
        _field("training.perDeviceEvalBatchSize", "eval_batch_size"),
        _none("global_batch_size",
              "rows of a step are all processes x `perDeviceTrainBatchSize` x `gradientAccumulationSteps`"),
        _field("training.onOutOfMemory", "auto_find_batch_size", "Reduce"),
        _field("training.numTrainEpochs", "num_epochs epochs max_epochs"),
        _field("training.learningRate", "lr"),
        _field("training.lrSchedule", "lr_scheduler_type lr_scheduler lr_decay_style"),
        _field("training.lrScheduleOptions", "lr_scheduler_kwargs lr_scheduler_args"),
        _field("training.lrScheduleOptions.minLrRatio", "min_lr min_lr_rate cosine_min_lr_ratio lr_end",
               "min_lr / learning_rate, with `lrSchedule: CosineWithMinLR`"),
        _none("reduce_lr_on_plateau",
              "the rate follows from the step alone, so that a resumed run is the same; `validation.earlyStopping` "
              "and `keepBest` go by the evaluation loss"),
        _field("training.adam.beta1", "adam_beta1"),
        _field("training.adam.beta2", "adam_beta2"),
        _field("training.adam.epsilon", "adam_epsilon adam_eps"),
        _field("training.maxGradNorm", "gradient_clipping clip_grad"),
        _field("training.neftuneNoiseAlpha", "noisy_embedding_alpha"),
        _none("optim optimizer optim_args optim_target_modules use_galore galore_rank galore_target use_apollo "
              "apollo_rank use_badam badam_mode use_adam_mini use_muon",
              "AdamW with a state of 32 bits alone, which ZeRO shares out and `deepspeed.offloadOptimizer` takes off "
              "the GPUs; an adapter's is small. 8-bit, paged and Lion optimizers would save memory, but none is "
              "proven to go on from a checkpoint under ZeRO; GaLore and APOLLO do not go with DeepSpeed"),
        _none("label_smoothing_factor use_dft_loss enable_dft_loss use_asft_loss use_eaft_loss moe_aux_loss_coef "
              "router_aux_loss_coef",
              "the loss is the next token's cross entropy and nothing else: the output layer takes it itself, "
              "without all logits in memory"),
    ),
    "Preferences": (
        _field("training.preference.beta", "pref_beta beta rl_beta kl_beta"),
        _field("training.preference.sftWeight", "pref_ftx rpo_alpha", "DPO"),
        _field("training.preference.desirableWeight", "kto_chosen_weight desirable_weight kto_desirable_weight"),
        _field("training.preference.undesirableWeight",
               "kto_rejected_weight undesirable_weight kto_undesirable_weight"),
        _none("pref_loss loss_type simpo_gamma cpo_alpha dpo_label_smoothing label_smoothing pref_bco_weight "
              "f_divergence_type ld_alpha loss_weights",
              "DPO takes its paper's loss (sigmoid), KTO and ORPO theirs. IPO, hinge, SimPO, BCO and smoothed labels "
              "are not there; ORPO is the one without a look at the base"),
        _none("ref_model ref_model_adapters ref_adapters sync_ref_model precompute_ref_log_probs reference_free",
              "the base is what answers are compared with, asked once before the first step; for another one train "
              "that model"),
    ),
    "Evaluation and checkpoints": (
        _field("training.validation.evalSteps", "eval_steps evals_per_epoch eval_interval",
               "whole steps; an epoch has the rows divided by those of a step"),
        _field("training.checkpoint.saveSteps", "save_steps saves_per_epoch save_interval",
               "whole steps; an epoch has the rows divided by those of a step"),
        _none("eval_strategy evaluation_strategy save_strategy do_eval do_train eval_on_start eval_delay",
              "by steps alone: `validation.evalSteps` and `checkpoint.saveSteps`, and at the end; an epoch has the "
              "rows divided by those of a step, and what `rehearse` says is the number of all steps"),
        _field("training.checkpoint.keep", "save_total_limit"),
        _field("training.validation.keepBest", "load_best_model_at_end"),
        _field("training.validation.earlyStopping", "early_stopping_steps early_stopping_patience "
               "early_stop_interval"),
        _none("metric_for_best_model greater_is_better predict_with_generate compute_accuracy acc_strategy "
              "eval_on_each_dataset "
              "eval_metric generation_max_length do_predict",
              "what is measured is the evaluation loss; what the model says is asked of the served one: "
              "`ollama.smokeTests`, and for preferences the record has their accuracy"),
        _none("save_only_model save_safetensors save_on_each_node",
              "a checkpoint must hold everything to go on from; results are safetensors always"),
        _none("resume_from_checkpoint auto_resume_from_checkpoints resume_only_model ignore_data_skip",
              "it goes on from the newest whole checkpoint by itself, with the next rows"),
        _none("output_dir overwrite_output_dir exist_ok add_version",
              "where results lie follows from what they were made of: nothing is overwritten"),
        _none("push_to_hub hub_model_id hub_strategy hub_token export_dir export_hub_model_id merge_lora",
              "the model is served in Ollama; `export.keepMerged` keeps it in Hugging Face's form on the volume, for "
              "a tool of yours to push"),
        _none("save_dtype save_precision export_legacy_format",
              "what is saved has the precision of the training: `FP32` saves 32 bits, the others 16"),
    ),
    "Speed and memory": (
        _field("training.precision", "bf16 fp16 torch_dtype dtype compute_dtype"),
        _none("pure_bf16 bf16_full_eval upcast_layernorm upcast_lmhead_output",
              "`BF16` and `FP16` compute in 16 bits on master weights of 32, always: sums in 16 bits lose small "
              "steps"),
        _none("tf32 fp8 fp8_backend",
              "`FP32` is computed in 32 bits in full, and `BF16` is faster than TF32; FP8 is not there: none of its "
              "ways is proven with ZeRO and adapters"),
        _none("torch_compile torch_compile_backend use_unsloth use_unsloth_gc",
              "rows of each length would be compiled anew, and ZeRO's hooks break the graphs; what they gain comes "
              "from Liger's kernels and from the loss in the output layer"),
        _none("flash_attn flash_attention attn_implementation attn_impl sdp_attention enable_liger_kernel "
              "use_liger_kernel liger_kernel_config",
              "the fastest kernels that are there are taken; the report names them"),
        _none("fsdp fsdp_config accelerator_config",
              "`deepspeed.zeroStage: 3` shares out weights, gradients and optimizer as FSDP does"),
        _none("gradient_checkpointing_kwargs use_reentrant_gc disable_gradient_checkpointing activation_offloading "
              "activation_checkpointing recompute_granularity",
              "`gradientCheckpointing` is on or off, for each layer; its kind follows from the ZeRO stage"),
        _none("sequence_parallel_size sequence_parallel context_parallel_size tensor_model_parallel_size "
              "pipeline_model_parallel_size parallelism_config deepspeed_autotp_size",
              "each process takes whole rows through whole layers; for long rows take `gradientCheckpointing`, "
              "ZeRO 3 and more memory"),
        _field("training.gpusPerNode", "num_gpus nproc_per_node num_processes"),
        _field("training.gpusPerNode", "use_cpu", "0"),
        _field("training.nodes", "nnodes num_machines"),
        _field("training.ddpTimeoutSeconds", "ddp_timeout"),
        _none("ddp_find_unused_parameters ddp_backend ddp_bucket_cap_mb dataloader_pin_memory "
              "dataloader_prefetch_factor dataloader_persistent_workers",
              "set as they must be"),
    ),
    "Watching": (
        _field("training.tracking", "report_to use_swanlab use_wandb use_mlflow use_tensorboard logging_dir",
               "TensorBoard, MLflow or WeightsAndBiases"),
        _field("training.tracking.project", "wandb_project mlflow_experiment_name project"),
        _none("run_name wandb_name wandb_run_id mlflow_run_name", "the run has the job's name"),
        _none("logging_strategy logging_first_step plot_loss disable_tqdm log_level include_num_input_tokens_seen",
              "it is reported by steps (`loggingSteps`); the report has the curves, always"),
    ),
}  # fmt: skip
"""By what they are about."""

DEEPSPEED: Sequence[Option] = (
    _field("training.perDeviceTrainBatchSize", "train_micro_batch_size_per_gpu"),
    _field("training.gradientAccumulationSteps", "gradient_accumulation_steps"),
    _none("train_batch_size", "it follows from processes, `perDeviceTrainBatchSize` and `gradientAccumulationSteps`"),
    _field("training.maxGradNorm", "gradient_clipping"),
    _field("training.precision", "bf16 fp16.enabled fp16.auto_cast data_types amp"),
    _none("fp16.loss_scale", "the scale is found by itself: a fixed one cannot follow the gradients"),
    _field("training.deepspeed.zeroStage", "zero_optimization.stage"),
    _field("training.deepspeed.offloadOptimizer", "zero_optimization.offload_optimizer zero_optimization.cpu_offload",
           "to memory, not to disks"),
    _field("training.deepspeed.offloadParameters", "zero_optimization.offload_param", "to memory, not to disks"),
    _none("aio", "it is offloaded to memory, not to disks (NVMe), whose paths would differ by node"),
    _field("training.adam", "optimizer", "with `learningRate` and `weightDecay`"),
    _field("training.lrSchedule", "scheduler"),
    _field("training.gradientCheckpointing", "activation_checkpointing"),
    _none("zero_optimization.stage3_gather_16bit_weights_on_model_save zero_optimization.allgather_partitions "
          "zero_optimization.reduce_scatter zero_allow_untested_optimizer "
          "zero_force_ds_cpu_optimizer steps_per_print gradient_predivide_factor prescale_gradients",
          "Tunesmith sets it as it must be"),
    _none("zero_optimization.zero_quantized_weights zero_optimization.zero_quantized_gradients "
          "zero_optimization.zero_quantized_nontrainable_weights",
          "its kernels would have to be compiled for CUDA when it starts, and the image has no CUDA compiler"),
    _field("training.tracking", "tensorboard wandb comet csv_monitor"),
)  # fmt: skip
"""Keys of DeepSpeed's JSON that `training.deepspeed.config` does not take, by their paths in it."""


def folded(name: str) -> str:
    """Return a name without what spellings differ in: `save_total_limit` is `saveTotalLimit`."""
    return name.replace("_", "").replace("-", "").lower()


_BY_NAME = {folded(name): option for group in OPTIONS.values() for option in group for name in option.names}
_BY_KEY = {name: option for option in DEEPSPEED for name in option.names}
_CONFIG = ("spec", "training", "deepspeed", "config")


def _left_out(option: Option) -> str:
    """Return what to tell someone who gives a key of DeepSpeed's that is not theirs to set."""
    note = f" ({option.note})" if option.note else ""
    return f"leave it out: {f'Tunesmith sets it by `{option.field}`{note}' if option.field else option.note}"


def answer_to(path: Sequence[str | int]) -> str | None:
    """Return what to tell someone who wrote an unknown field, by its path in the job; None if it is nobody's."""
    names = tuple(str(part) for part in path)
    if names[: len(_CONFIG)] == _CONFIG:
        option = _BY_KEY.get(".".join(names[len(_CONFIG) :]))
        return _left_out(option) if option else None
    directly = len(names) == 2 and names[0] == "spec"
    if not directly and (names[:2] != ("spec", "training") or "deepspeed" in names[:-1]):
        return None
    option = _BY_NAME.get(folded(names[-1]))
    return option.answer if option else None
