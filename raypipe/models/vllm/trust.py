"""Sorts the options of vLLM's engine by what a pipeline file may do with them. Knows nothing of loading.

An option that stands nowhere here, of a newer vLLM, counts as one that runs code; a test names it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from raypipe.contracts.llm import LLM
from raypipe.security.permissions import HUB, Permissions, is_path

PLAIN = frozenset(
    """
    aggregate_engine_logging all2all_backend allow_deprecated_quantization async_scheduling attention_backend
    block_size collect_detailed_traces convert cp_kv_cache_interleave_size cpu_distributed_timeout_seconds
    cpu_offload_gb cpu_offload_params cudagraph_capture_sizes cudagraph_metrics custom_histogram_buckets
    data_parallel_backend data_parallel_external_lb data_parallel_hybrid_lb data_parallel_multi_port_external_lb
    data_parallel_rank data_parallel_size data_parallel_size_local data_parallel_start_rank dbo_decode_token_threshold
    dbo_prefill_token_threshold dcp_comm_backend dcp_kv_cache_interleave_size dcp_q_replicate
    decode_context_parallel_size device_ids disable_cascade_attn disable_chunked_mm_input disable_custom_all_reduce
    disable_hybrid_kv_cache_manager disable_log_stats disable_nccl_for_dp_synchronization disable_sliding_window
    distributed_timeout_seconds dp_sync_interval dtype elastic_ep_max_dp_size enable_batch_sharded_sampling
    enable_chunked_prefill enable_cumem_allocator enable_dbo enable_elastic_ep enable_ep_weight_filter enable_eplb
    enable_expert_parallel enable_fault_tolerance enable_flashinfer_autotune enable_hc_sp
    enable_layerwise_nvtx_tracing enable_log_requests enable_logging_iteration_details enable_lora
    enable_mamba_cache_stochastic_rounding enable_mamba_shared_prefix_checkpoint enable_mfu_metrics enable_mm_embeds
    enable_mm_processor_stats enable_mixed_moe_lora_format enable_moe_shared_loras enable_nccl_comm_suspend
    enable_prefix_caching enable_prompt_embeds enable_return_routed_experts enable_shm_tensor_arena enable_sleep_mode
    enable_tower_connector_lora enable_trace_replay enforce_eager eplb_config expert_placement_strategy
    fail_on_environ_validation fully_sharded_loras gdn_prefill_backend gpu_memory_utilization ignore_patterns
    interleave_mm_strings ir_op_priority jit_monitor_mode jit_monitor_verbose kda_decode_backend kda_prefill_backend
    kv_cache_dtype kv_cache_dtype_skip_layers kv_cache_memory_bytes kv_cache_metrics kv_cache_metrics_sample
    kv_offloading_backend kv_offloading_size kv_sharing_fast_prefill language_model_only limit_mm_per_prompt
    linear_backend log_level logprobs_mode long_prefill_token_threshold long_prefill_token_threshold_adaptive
    lora_dtype lora_target_modules mamba_backend mamba_block_size mamba_cache_dtype mamba_cache_mode
    mamba_cache_philox_rounds mamba_ssm_cache_dtype mamba_ssu_algorithm max_cpu_loras max_cudagraph_capture_size
    max_logprobs max_lora_cls_labels max_lora_rank max_loras max_model_len max_num_active_seqs max_num_batched_tokens
    max_num_queued_reqs max_num_queued_tokens max_num_scheduled_tokens max_num_seqs max_parallel_loading_workers
    mm_device_do_normalize mm_encoder_attn_dtype mm_encoder_fp8_scale_save_margin mm_encoder_only mm_encoder_tp_mode
    mm_hasher_algorithm mm_ipc_gpu_memory_gb mm_processor_cache_gb mm_processor_cache_type mm_processor_device
    mm_shm_cache_max_object_size_mb mm_tensor_ipc model_impl moe_backend nnodes node_rank
    num_gpu_blocks_override numa_bind numa_bind_cpus numa_bind_nodes offload_backend offload_group_size
    offload_num_in_group offload_params offload_prefetch_step optimization_level override_generation_config
    per_request_spec_decode_metrics performance_mode pipeline_parallel_size prefill_context_parallel_size
    prefill_schedule_interval prefix_cache_retention_interval prefix_caching_hash_algo prefix_match_unit
    pt_load_map_location quantization ray_workers_use_nsight reasoning_parser renderer_num_workers
    replayssm_buffer_len return_sampling_mask runner safetensors_load_strategy safetensors_prefetch_block_size
    safetensors_prefetch_num_threads scheduler_reserve_full_isl scheduling_policy seed served_model_name
    show_hidden_metrics_for_version shutdown_timeout skip_mm_profiling skip_tokenizer_init
    sleep_mode_offload_cudagraph sleep_preserve_parameter_names sparse_indexer_topk_backend specialize_active_lora
    spec_tokens stream_interval swa_bounded_replay tensor_parallel_size tokens_only ubatch_size
    use_fp64_gumbel use_replayssm use_tqdm_on_load video_pruning_method video_pruning_rate watermark
    revision tokenizer_revision
    """.split()  # noqa: SIM905 - a line for each of so many names is no easier to read
)
"""Numbers, switches and names of vLLM's own parts."""

NAMED = frozenset(("generation_config", "hf_config_path", "model", "model_weights", "tokenizer"))
"""What is read from a path, or by its name from the Hugging Face hub."""

CHOSEN: Mapping[str, Sequence[str]] = {
    "config_format": ("auto", "hf", "mistral"),
    "distributed_executor_backend": ("mp", "ray", "uni"),
    "load_format": ("auto", "bitsandbytes", "dummy", "fastsafetensors", "gguf", "hf", "mistral", "safetensors"),
    "tokenizer_mode": ("auto", "hf", "mistral", "slow"),
}
"""Options with the values that name parts of vLLM; others name classes, plugins or ways to load pickles."""

GUARDED = frozenset(
    """
    _api_process_count _api_process_rank additional_config allowed_local_media_path allowed_media_domains
    attention_config aux_output_config code_revision compilation_config data_parallel_address data_parallel_rpc_port
    default_mm_loras diffusion_config download_dir ec_manager_config ec_transfer_config engram_config
    fault_tolerance_config hf_token io_processor_plugin kernel_config kv_events_config kv_transfer_config
    log_config_file logging_config logits_processors mamba_config master_addr master_port media_io_kwargs
    mm_encoder_attn_backend mm_encoder_fp8_scale_path mm_encoder_fp8_scale_save_path mm_processor_kwargs
    model_class_overrides model_loader_extra_config otlp_traces_endpoint pooler_config profiler_config
    quantization_config reasoning_config reasoning_parser_plugin scheduler_cls spec_method spec_model speculative_config
    structured_outputs_config trust_remote_code watermark_config weight_transfer_config worker_cls
    worker_extension_cls
    """.split()  # noqa: SIM905 - a line for each of so many names is no easier to read
)
"""What imports classes or plugins, runs a model's own code, reads or writes files, or opens connections."""

STRUCTURED = "structured_outputs_config"
_STRUCTURED_PLAIN = frozenset(
    {"backend", "disable_any_whitespace", "disable_additional_properties", "disable_fallback"}
)
_BACKENDS = (None, "auto", "xgrammar", "guidance", "outlines", "lm-format-enforcer")
OVERRIDES = "hf_overrides"
_CODE_OF_MODEL = "auto_map"
_BUILT_IN = ("auto", "vllm")


def check_options(llm: LLM, permissions: Permissions, where: str) -> None:
    """Raises SpecError for what the engine of a model that a file declares may not do, read or fetch."""
    for name, value in llm.engine.items():
        if value is None or value is False or name in PLAIN:
            continue
        if name in NAMED:
            check_named(value, permissions, f"{where} option {name!r}")
        elif not _is_harmless(name, value):
            permissions.check_engine_option(name, where)
    check_named(llm.model, permissions, where, llm.uri)
    if llm.lora is not None:
        check_named(llm.lora, permissions, f"{where} option 'lora'")
    template: Any = llm.options.get("chat_template")
    if isinstance(template, str) and not {"{", "\n"} & set(template):
        permissions.check_file(template, f"{where} option 'chat_template'")


def check_named(name: Any, permissions: Permissions, where: str, uri: str = "") -> None:
    """Raises SpecError where neither a path nor a name on the Hugging Face hub may be read."""
    if not isinstance(name, str) or name in _BUILT_IN or permissions.trusted & {name, uri}:
        return
    if is_path(name):
        permissions.check_file(name, where)
    else:
        permissions.check_host(HUB, where)


def _is_harmless(name: str, value: Any) -> bool:
    if name in CHOSEN:
        return value in CHOSEN[name]
    if name == STRUCTURED and isinstance(value, Mapping):
        # Its other fields name plugins, or parsers that plugins bring.
        plain = cast("Mapping[str, Any]", value)
        return set(plain) <= _STRUCTURED_PLAIN and plain.get("backend") in _BACKENDS
    return name == OVERRIDES and isinstance(value, Mapping) and not _holds(cast("Mapping[str, Any]", value))


def _holds(value: Any) -> bool:
    """Whether a value names code that comes with a model."""
    looks: Callable[[Any], bool] = _holds
    if isinstance(value, Mapping):
        plain = cast("Mapping[str, Any]", value)
        return _CODE_OF_MODEL in plain or any(map(looks, plain.values()))
    return isinstance(value, list) and any(map(looks, cast("list[Any]", value)))
