"""Axolotl's keys that become nothing here, each with its reason; those that mean something are read in `axolotl`."""

from __future__ import annotations

from residency.config.methods import REINFORCEMENT_LATER


def of(reason: str, names: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), reason)


FOLDERS = "says where files go; runs stand under runs/NAME here"
LOGS = "says where figures go; metrics.jsonl and report.html have them here"
FAST = "changes speed or memory only; speed: has our own switches"
CACHE = "says how rows are read and kept; nothing is kept between runs here"
TOKENIZER = "the tokenizer is read as the model's files say"
QUANTISED = "the base is to be a plain one: name the unquantised model in model.id; adapter.kind: qlora quantises it"
DEVICES = "one process trains on one device here; what does not fit asks for adapter.kind: qlora or speed.offload"
RATES = "one rate, and one schedule of those in train.schedule, holds for all weights"
LOSS = "changes the loss, which is next-token cross-entropy here"
WEIGHTS = "changes which weights are trained; here these are LoRA's on adapter.targets, or all of them"

NO_EFFECT = (
    of(FOLDERS, "output_dir hub_model_id hub_strategy hub_revision save_safetensors save_only_model "
       "tokenizer_save_jinja_files save_first_step dynamic_checkpoint")
    | of(LOGS, "logging_steps use_wandb wandb_project wandb_entity wandb_watch wandb_name wandb_run_id wandb_log_model "
         "wandb_mode use_mlflow mlflow_tracking_uri mlflow_experiment_name mlflow_run_name hf_mlflow_log_artifacts "
         "use_comet comet_api_key comet_workspace comet_project_name comet_experiment_key comet_mode comet_online "
         "comet_experiment_config use_trackio trackio_project_name trackio_run_name trackio_space_id use_tensorboard "
         "use_otel_metrics otel_metrics_host otel_metrics_port profiler_steps profiler_steps_start "
         "include_tokens_per_second include_tkps use_swanlab swanlab_project swanlab_experiment_name "
         "swanlab_description swanlab_mode swanlab_workspace swanlab_log_model swanlab_log_completions "
         "swanlab_completion_log_interval swanlab_completion_max_buffer debug")
    | of(FAST, "gradient_checkpointing gradient_checkpointing_kwargs activation_offloading layer_offloading "
         "selective_checkpointing attn_implementation flash_attention flash_attn_cross_entropy flash_attn_fuse_mlp "
         "flash_attn_rms_norm flash_optimum flash_attn_d512 sdpa_varlen sdp_attention xformers_attention "
         "flex_attention flex_attn_compile_kwargs eager_attention sage_attention large_head_attention "
         "gemma4_hybrid_attn_impl fused_attn_kernel experts_implementation tf32 torch_compile torch_compile_backend "
         "torch_compile_mode torch_compile_options cut_cross_entropy liger_rope liger_rms_norm liger_rms_norm_gated "
         "liger_layer_norm liger_swiglu liger_glu_activation liger_cross_entropy liger_fused_linear_cross_entropy "
         "liger_use_token_scaling lora_mlp_kernel lora_qkv_kernel lora_o_kernel lora_embedding_kernel "
         "chunked_cross_entropy chunked_cross_entropy_num_chunks tiled_mlp tiled_mlp_num_shards "
         "tiled_mlp_use_original_mlp use_kernels use_scattermoe use_sonicmoe use_dsv4_kernels use_glm_dsa_kernels "
         "moe_grouped_backend moe_dequant_chunk_size moe_bnb_fast expert_backend batch_flattening "
         "pad_to_sequence_len pad_to_multiple_of eval_sample_packing eval_sequence_len eval_batch_size "
         "auto_find_batch_size sample_packing_group_size sample_packing_bin_size sample_packing_eff_est "
         "sample_packing_seq_len_multiplier sample_packing_mp_start_method sample_packing_sequentially "
         "multipack_real_batches pretrain_multipack_attn pretrain_multipack_buffer_size "
         "streaming_multipack_buffer_size total_num_tokens total_supervised_tokens low_cpu_mem_usage max_memory "
         "gpu_memory_limit lora_on_cpu gc_steps gc_collect_steps torch_empty_cache_steps torchdistx_path "
         "accelerator_config bnb_config_kwargs experimental_skip_move_to_device qlora_sharded_model_loading "
         "merge_method merge_lora torch_dtype")
    | of(CACHE, "dataset_prepared_path dataset_num_proc dataset_processes dataset_keep_in_memory "
         "skip_prepare_dataset streaming preprocess_iterable num_dataset_shards_to_save push_dataset_to_hub "
         "hf_use_auth_token dataloader_num_workers dataloader_pin_memory dataloader_prefetch_factor "
         "dataloader_drop_last remove_unused_columns is_preprocess shuffle_merged_datasets "
         "shuffle_before_merging_datasets group_by_length")
    | of(TOKENIZER, "tokenizer_type tokenizer_use_fast tokenizer_legacy")
    | of("the model's family is read from its config", "is_falcon_derived_model is_llama_derived_model "
         "is_mistral_derived_model is_qwen_derived_model lora_fan_in_fan_out")
    | of("goes on with an earlier run of Axolotl's; ours go on with `residency train --resume`",
         "resume_from_checkpoint auto_resume_from_checkpoints")
    | of("a loss that explodes ends the run with an error here", "loss_watchdog_threshold loss_watchdog_patience")
    | of("says how strictly Axolotl reads its config", "strict")
    | of("the token that the chat template ends an answer with is trained", "eot_tokens")
    | of("tunes how several processes talk; one process trains here", "ddp ddp_timeout ddp_bucket_cap_mb "
         "ddp_broadcast_buffers ddp_find_unused_parameters")
    | of("says which device is used; CUDA_VISIBLE_DEVICES does here", "device device_map local_rank world_size")
    | of("measures only; data.test, eval.graders and eval.suites do here", "do_causal_lm_eval eval_causal_lm_metrics "
         "do_bench_eval bench_dataset bench_split metric_for_best_model greater_is_better eval_table_size "
         "eval_max_new_tokens generate_samples num_generation_samples generation_max_new_tokens "
         "generation_temperature generation_top_p generation_top_k generation_prompt_ratio generation_do_sample "
         "lm_eval_tasks lm_eval_batch_size lm_eval_post_train lm_eval_model")
)  # fmt: skip
LEFT_OUT = (
    of(DEVICES, "deepspeed deepcompile fsdp fsdp_config fsdp_version fsdp_final_state_dict_type dp_shard_size "
       "dp_replicate_size tensor_parallel_size context_parallel_size sequence_parallel_degree heads_k_stride "
       "ring_attn_func expert_parallel_size expert_parallel_backend expert_parallel_num_nvl_bytes "
       "expert_parallel_num_rdma_bytes expert_parallel_token_capacity expert_parallel_fallback_on_unsupported "
       "use_ray ray_run_name ray_num_workers resources_per_worker")
    | of(QUANTISED, "gptq gptq_groupsize gptq_model_v1 gptq_disable_exllama model_quantization_config "
         "model_quantization_config_kwargs quantize_moe_experts nvfp4_merge_aware nvfp4_merge_aware_start_step "
         "dsv4_fp4_grouped_mode dsv4_fp8_nonexpert_mode nonexpert_quantization")
    | of("trains weights that are rounded in the forward pass; here they are not: quantise the result afterwards",
         "qat quantization")
    | of("the forward pass is bf16 or fp32 here; speed.fp8 holds a frozen base in FP8",
         "fp8 fp8_enable_fsdp_float8_all_gather float32 fp32_norms fp32_norm_classes")
    | of(RATES, "lr_scheduler_kwargs cosine_constant_lr_ratio lr_quadratic_warmup lr_div_factor "
         "lr_groups embedding_lr embedding_lr_scale loraplus_lr_ratio loraplus_lr_embedding")
    | of("an adapter is trained once here, not merged and begun anew", "relora relora_prune_ratio "
         "relora_prune_method relora_cpu_offload jagged_restart_steps jagged_restart_warmup_steps "
         "jagged_restart_anneal_steps")
    | of("belongs to an optimizer that is not here", "optim_args optim_target_modules adam_epsilon2 adam_beta3 "
         "dion_lr dion_momentum dion_rank_fraction dion_rank_multiple_of qgalore_rank qgalore_update_proj_gap "
         "qgalore_scale qgalore_proj_type qgalore_proj_quant qgalore_proj_bits qgalore_proj_group_size "
         "qgalore_cos_threshold qgalore_gamma_proj qgalore_queue_size grokfast_alpha grokfast_lamb")
    | of(WEIGHTS, "lora_modules_to_save lora_target_parameters lora_rank_pattern lora_alpha_pattern "
         "peft_layers_to_transform peft_layers_pattern peft_layer_replication peft_trainable_token_indices "
         "peft_ensure_weight_tying unfrozen_parameters freeze_mm_modules lisa_n_layers lisa_step_interval "
         "lisa_layers_attribute spectrum_top_fraction spectrum_model_name llmcompressor use_onebitllms mora")
    | of("the adapter starts as PEFT's does by default, at no change", "peft peft_init_lora_weights "
         "peft_autocast_adapter_dtype")
    | of("an adapter cannot be trained on: merge it into its base, and name the merged model in model.id",
         "lora_model_dir")
    | of("a run starts from the weights it is given", "reinit_weights")
    | of(LOSS, "neftune_noise_alpha use_eaft eaft_alpha eaft_k dense_mixer scaling_softmax scaling_softmax_factor "
         "scaling_softmax_bias use_pose pose_split_on_token_ids pose_max_context_len pose_num_chunks")
    | of("rows are neither sorted nor dropped by this; `residency check --fix` takes out duplicates",
         "curriculum_sampling dataset_exact_deduplication min_sample_len max_prompt_len dataset_shard_num "
         "dataset_shard_idx pretraining_sample_concatenation")
    | of("the tokenizer is used as it is; padding needs no token here, and a named model.chat_template brings its "
         "own tokens", "tokens added_tokens_overrides resize_token_embeddings_to_32x "
         "mean_resizing_embeddings shrink_embeddings embeddings_skip_upcast fix_untrained_tokens")
    | of("write it as the first turn of the rows: {\"role\": \"system\", ...}", "default_system_message")
    | of("the template is rendered with its own defaults", "chat_template_kwargs")
    | of("the model's and tokenizer's files are read from model.id alone", "base_model_config tokenizer_config "
         "model_config overrides_of_model_config model_kwargs overrides_of_model_kwargs cls_model_config "
         "base_model_ignore_patterns llama4_linearized_experts tokenizer_use_mistral_common rope_scaling")
    | of("has no meaning in Axolotl any more", "max_packed_sequence_len noisy_embedding_alpha s2_attention "
         "evaluation_strategy")
    | of("belongs to preference or reinforcement training", "rl_beta dpo_beta dpo_loss_type dpo_loss_weights "
         "dpo_label_smoothing dpo_use_weighting dpo_padding_free dpo_use_liger_kernel precompute_ref_log_probs "
         "orpo_alpha simpo_gamma cpo_alpha kto_desirable_weight kto_undesirable_weight trl vllm rpo_alpha "
         "center_rewards_coefficient")
)  # fmt: skip
REFUSED = {
    "reward_model": "trains a reward model, which is not here",
    "process_reward_model": "trains a reward model, which is not here",
    "num_labels": "trains a classifier; here a model writes its answer: put the label into the answer's text",
    "processor_type": "reads images or sound; only text can be trained on",
    "processor_kwargs": "reads images or sound; only text can be trained on",
    "diffusion": "trains a diffusion language model, which is not here",
    "ebft": f"is not here yet: {REINFORCEMENT_LATER}",
    "kd_trainer": "learns from a teacher's probabilities; train on the teacher's answers instead",
    "trainer_cls": "names a trainer of your own; a run has none",
}
"""What leaves no run of the same meaning, unless it is off."""
PLUGINS_FOR_SPEED = ("CutCrossEntropyPlugin", "LigerPlugin", "KernelsPlugin", "ExpertParallelPlugin", "SwanLabPlugin")
SEEN_TO = (
    "base_model", "datasets", "pretraining_dataset", "test_datasets", "val_set_size", "sequence_len", "adapter",
    "lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "lora_target_linear", "load_in_4bit",
    "load_in_8bit", "micro_batch_size", "gradient_accumulation_steps", "batch_size", "num_epochs", "max_steps",
    "learning_rate", "optimizer", "lr_scheduler", "warmup_ratio", "warmup_steps", "weight_decay", "max_grad_norm",
    "adam_beta1", "adam_beta2", "adam_epsilon", "seed", "chat_template", "train_on_inputs", "sample_packing",
)  # fmt: skip
"""Known besides these tables, for near misses."""
