"""LLaMA-Factory's keys that become nothing here, each with its reason; the others are read in `llama_factory`."""

from __future__ import annotations

from residency.importers.axolotl_keys import (
    DEVICES,
    FAST,
    FOLDERS,
    LOGS,
    LOSS,
    QUANTISED,
    RATES,
    TOKENIZER,
    WEIGHTS,
    of,
)

GENERATION = (
    "says how answers are drawn after training; here they are the most likely ones, and eval.max_new_tokens long"
)
OPTIMIZER = "belongs to an optimizer that is not here"
PREFERENCES = "belongs to preference or reinforcement training"
MEDIA = "reads images, sound or video; only text can be trained on"

NO_EFFECT = (
    of(FOLDERS, "output_dir overwrite_output_dir save_only_model hub_model_id push_to_hub cache_dir hub_token "
       "hf_hub_token ms_hub_token om_hub_token offload_folder")
    | of(LOGS, "logging_steps logging_strategy logging_dir logging_first_step report_to run_name plot_loss "
         "include_effective_tokens_per_second use_swanlab swanlab_project swanlab_workspace swanlab_run_name "
         "swanlab_mode swanlab_api_key swanlab_logdir enable_torch_profiler debug print_param_status "
         "include_num_input_tokens_seen project trackio_space_id")
    | of(FAST, "flash_attn use_unsloth use_unsloth_gc enable_liger_kernel disable_gradient_checkpointing "
         "gradient_checkpointing gradient_checkpointing_kwargs use_reentrant_gc upcast_layernorm "
         "upcast_lmhead_output use_v1_kernels tf32 torch_compile low_cpu_mem_usage use_kv_cache "
         "per_device_eval_batch_size eval_accumulation_steps auto_find_batch_size group_by_length "
         "quantization_device_map double_quantization quantization_type bias_activation_fusion apply_rope_fusion "
         "moe_grouped_gemm recompute_granularity")
    | of("says how rows are read and kept; nothing is kept between runs here", "overwrite_cache "
         "preprocessing_num_workers preprocessing_batch_size dataloader_num_workers dataloader_pin_memory "
         "dataloader_drop_last dataloader_persistent_workers streaming buffer_size data_shared_file_system "
         "remove_unused_columns ignore_pad_token_for_loss data_seed media_dir")
    | of(TOKENIZER, "use_fast_tokenizer split_special_tokens")
    | of("tunes how several processes talk; one process trains here", "ddp_timeout ddp_backend "
         "ddp_find_unused_parameters local_rank")
    | of("goes on with an earlier run; ours go on with `residency train --resume`", "resume_from_checkpoint")
    | of(GENERATION, "do_sample temperature top_p top_k num_beams max_length max_new_tokens repetition_penalty "
         "length_penalty skip_special_tokens predict_with_generate eval_num_beams infer_backend infer_dtype "
         "vllm_maxlen vllm_gpu_util vllm_enforce_eager vllm_max_lora_rank vllm_config")
    | of("measures only; data.test and eval: do here", "do_eval do_predict compute_accuracy eval_on_each_dataset "
         "metric_for_best_model greater_is_better")
    | of("is for `llamafactory-cli export`; `residency export` has its own options", "export_dir export_size "
         "export_device export_legacy_format export_hub_model_id export_quantization_bit "
         "export_quantization_dataset export_quantization_nsamples export_quantization_maxlen")
)  # fmt: skip
LEFT_OUT = (
    of(DEVICES, "deepspeed fsdp fsdp_config fsdp_transformer_layer_cls_to_wrap ray_num_workers ray_init_kwargs "
       "master_addr master_port tensor_model_parallel_size pipeline_model_parallel_size expert_model_parallel_size "
       "context_parallel_size sequence_parallel use_distributed_optimizer overlap_param_gather overlap_grad_reduce "
       "moe_token_dispatcher_type use_kt kt_cpu_activation kt_weight_path kt_non_expert_weight_path kt_config "
       "kt_use_lora_experts accelerator_config")
    | of("the forward pass is bf16 or fp32 here; speed.fp8 holds a frozen base in FP8", "fp8 fp8_backend "
         "fp8_enable_fsdp_float8_all_gather")
    | of(RATES, "lr_scheduler_kwargs loraplus_lr_ratio loraplus_lr_embedding")
    | of(OPTIMIZER, "optim_args optim_target_modules galore_target galore_rank galore_update_interval galore_scale "
         "galore_proj_type galore_layerwise apollo_target apollo_rank apollo_update_interval apollo_scale "
         "apollo_proj apollo_proj_type apollo_scale_type apollo_layerwise apollo_scale_front badam_mode "
         "badam_start_block badam_switch_mode badam_switch_interval badam_update_ratio badam_mask_mode "
         "badam_verbose")
    | of(LOSS, "use_dft_loss use_asft_loss asft_alpha use_eaft_loss eaft_alpha neftune_noise_alpha "
         "label_smoothing_factor moe_aux_loss_coef")
    | of(WEIGHTS, "additional_target freeze_trainable_layers freeze_trainable_modules freeze_extra_modules "
         "use_llama_pro freeze_vision_tower freeze_multi_modal_projector freeze_language_model")
    | of("the adapter starts as PEFT's does by default, at no change", "pissa_init pissa_iter pissa_convert")
    | of("an adapter cannot be trained on: merge it into its base, and name the merged model in model.id",
         "adapter_name_or_path adapter_folder create_new_adapter")
    | of("a run starts from the weights it is given, and keeps their architecture", "train_from_scratch "
         "mixture_of_depths rope_scaling shift_attn")
    | of("the tokenizer is used as it is; a named model.chat_template brings its own tokens", "resize_vocab "
         "add_tokens add_special_tokens new_special_tokens_config init_special_tokens")
    | of("write it as the first turn of the rows: {\"role\": \"system\", ...}", "default_system")
    | of("tools and thoughts are written as the model's chat template does", "tool_format enable_thinking "
         "preserve_thinking")
    | of("rows are shuffled, and come as often as they stand in the file", "mix_strategy interleave_probs "
         "disable_shuffling")
    | of("tokens made by LLaMA-Factory cannot be trained on; the rows are", "tokenized_path")
    | of(MEDIA, "image_max_pixels image_min_pixels image_do_pan_and_scan crop_to_patches video_max_pixels "
         "video_min_pixels video_fps video_maxlen use_audio_in_video audio_sampling_rate")
    | of(PREFERENCES, "pref_beta pref_ftx pref_bco_weight pref_loss dpo_label_smoothing kto_chosen_weight "
         "kto_rejected_weight simpo_gamma ppo_buffer_size ppo_epochs ppo_score_norm ppo_target "
         "ppo_whiten_rewards ref_model ref_model_adapters ref_model_quantization_bit reward_model "
         "reward_model_adapters reward_model_quantization_bit reward_model_type ld_alpha")
    | of(QUANTISED, "use_kt_experts")
)  # fmt: skip
REFUSED = {
    "use_mca": "trains with Megatron, which is not here; a config of LLaMA-Factory's own trainer can be imported",
    "use_megatron_bridge": "trains with Megatron, which is not here",
    "use_hyper_parallel": "trains with HyperParallel, which is not here",
}
SEEN_TO = (
    "model_name_or_path", "stage", "do_train", "finetuning_type", "dataset", "eval_dataset", "template", "cutoff_len",
    "max_samples", "lora_rank", "lora_alpha", "lora_dropout", "lora_target", "quantization_bit",
    "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate", "num_train_epochs", "max_steps",
    "lr_scheduler_type", "warmup_ratio", "warmup_steps", "weight_decay", "max_grad_norm", "optim", "bf16", "fp16",
    "val_size", "train_on_prompt", "mask_history", "packing", "neat_packing", "save_steps", "eval_steps",
)  # fmt: skip
"""Known besides these tables, for near misses."""
