//! Megatron-LM's flags by the concept that they are about.
//!
//! In: a name. Out: its key, and what its value is.

/// What a flag's value is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum FlagKind {
    /// A number.
    Number,
    /// A text.
    Text,
    /// The flag alone says it: yes.
    Yes,
    /// The flag alone says it: no.
    No,
}

pub use FlagKind::{No, Number, Text, Yes};

/// Flags by the concept they are about.
pub const FLAGS: &[(&str, &str, FlagKind)] = &[
    ("--num-layers", "layers", Number),
    ("--encoder-num-layers", "layers", Number),
    ("--decoder-num-layers", "decoder_layers", Number),
    ("--hidden-size", "hidden", Number),
    ("--ffn-hidden-size", "ffn", Number),
    ("--num-attention-heads", "heads", Number),
    ("--group-query-attention", "grouped", Yes),
    ("--num-query-groups", "query_groups", Number),
    ("--num-key-value-heads", "kv_heads", Number),
    ("--kv-channels", "head_dim", Number),
    ("--seq-length", "seq", Number),
    ("--encoder-seq-length", "seq", Number),
    ("--decoder-seq-length", "target_seq", Number),
    ("--max-position-embeddings", "positions_most", Number),
    ("--position-embedding-type", "position_type", Text),
    ("--use-rotary-position-embeddings", "rotary", Yes),
    ("--rotary-base", "rope_theta", Number),
    ("--rope-theta", "rope_theta", Number),
    ("--swiglu", "gated", Yes),
    ("--normalization", "normalization", Text),
    ("--disable-bias-linear", "biased", No),
    ("--untie-embeddings-and-output-weights", "tied", No),
    ("--vocab-size", "vocab", Number),
    ("--num-experts", "experts", Number),
    ("--moe-router-topk", "top_k", Number),
    ("--topk", "top_k", Number),
    ("--moe-router-num-groups", "expert_groups", Number),
    ("--moe-router-group-topk", "top_groups", Number),
    ("--moe-ffn-hidden-size", "expert_ffn", Number),
    ("--moe-shared-expert-intermediate-size", "shared_ffn", Number),
    ("--moe-layer-freq", "frequency", Text),
    ("--moe-expert-capacity-factor", "capacity", Number),
    ("--moe-aux-loss-coeff", "aux_loss", Number),
    ("--moe-router-load-balancing-type", "balancing", Text),
    ("--multi-latent-attention", "latent", Yes),
    ("--q-lora-rank", "q_rank", Number),
    ("--kv-lora-rank", "kv_rank", Number),
    ("--qk-head-dim", "nope", Number),
    ("--qk-nope-head-dim", "nope", Number),
    ("--qk-rope-head-dim", "rope", Number),
    ("--num-shared-experts", "shared_count", Number),
    ("--qk-pos-emb-head-dim", "rope", Number),
    ("--v-head-dim", "value", Number),
    ("--tensor-model-parallel-size", "tp", Number),
    ("--model-parallel-size", "tp", Number),
    ("--pipeline-model-parallel-size", "pp", Number),
    ("--context-parallel-size", "cp", Number),
    ("--cp-comm-type", "cp_kind", Text),
    ("--expert-model-parallel-size", "ep", Number),
    ("--ep-size", "ep", Number),
    ("--expert-tensor-parallel-size", "etp", Number),
    ("--sequence-parallel", "sequence_parallel", Yes),
    ("--num-layers-per-virtual-pipeline-stage", "layers_per_chunk", Number),
    ("--num-virtual-stages-per-pipeline-rank", "chunks", Number),
    ("--pipeline-model-parallel-layout", "layout_text", Text),
    ("--decoder-first-pipeline-num-layers", "first_layers", Number),
    ("--decoder-last-pipeline-num-layers", "last_layers", Number),
    ("--account-for-embedding-in-pipeline-split", "counts_embedding", Yes),
    ("--account-for-loss-in-pipeline-split", "counts_loss", Yes),
    ("--use-tp-pp-dp-mapping", "pipeline_inside", Yes),
    ("--use-distributed-optimizer", "distributed_optimizer", Yes),
    ("--use-megatron-fsdp", "megatron_fsdp", Yes),
    ("--use-custom-fsdp", "megatron_fsdp", Yes),
    ("--use-torch-fsdp2", "torch_fsdp", Yes),
    ("--data-parallel-sharding-strategy", "sharding", Text),
    ("--num-distributed-optimizer-instances", "instances", Number),
    ("--zero-stage", "zero", Number),
    ("--micro-batch-size", "microbatch", Number),
    ("--batch-size", "microbatch", Number),
    ("--global-batch-size", "global_batch", Number),
    ("--train-iters", "steps", Number),
    ("--train-samples", "samples", Number),
    ("--train-tokens", "tokens", Number),
    ("--seed", "seed", Number),
    ("--recompute-activations", "recompute_activations", Yes),
    ("--recompute-granularity", "granularity", Text),
    ("--recompute-method", "recompute_method", Text),
    ("--recompute-num-layers", "recompute_layers", Number),
    ("--checkpoint-activations", "checkpoint_activations", Yes),
    ("--activations-checkpoint-method", "activations_method", Text),
    ("--activations-checkpoint-num-layers", "recompute_layers", Number),
    ("--checkpoint-num-layers", "recompute_layers", Number),
    ("--optimizer-cpu-offload", "offload", Yes),
    ("--cpu-optimizer", "offload", Yes),
    ("--bf16", "bf16", Yes),
    ("--fp16", "fp16", Yes),
    ("--fp8-format", "fp8", Text),
    ("--fp8-hybrid", "fp8_hybrid", Yes),
    ("--fp8-e4m3", "fp8_hybrid", Yes),
    ("--fp4-format", "fp4", Text),
    ("--optimizer", "optimizer_name", Text),
    ("--sgd-momentum", "momentum", Number),
    ("--lr", "lr", Number),
    ("--min-lr", "min_lr", Number),
    ("--lr-warmup-iters", "warmup", Number),
    ("--lr-warmup-fraction", "warmup_fraction", Number),
    ("--lr-warmup-samples", "warmup_samples", Number),
    ("--adam-beta1", "beta1", Number),
    ("--adam-beta2", "beta2", Number),
    ("--adam-eps", "eps", Number),
    ("--weight-decay", "weight_decay", Number),
    ("--clip-grad", "clip", Number),
    ("--cuda-graph-impl", "graph_kind", Text),
    ("--enable-cuda-graph", "graphs", Yes),
    ("--no-pipeline-parallel", "no_pipeline", Yes),
    ("--tokenizer-type", "tokenizer", Text),
    ("--tokenizer-model", "tokenizer_model", Text),
    ("--ds-sequence-parallel-size", "ulysses", Number),
];

/// Beginnings of flags that move no price: paths, data, logs, checkpoints, initial values.
pub const HARMLESS: &str = "
    --save --load --data-path --data-cache --split --vocab-file --merge-file --tokenizer --log- --eval- --tensorboard
    --wandb --distributed-backend --init-method --lr-decay --exit- --num-workers --mock-data --master
    --use-mcore-models --no-load --no-save --dist-ckpt --ckpt --auto-detect --async-save --override-opt --finetune
    --timing --reset- --dataloader-type --train-data --valid-data --test-data --data- --norm-epsilon
    --layernorm-epsilon --weight-decay-incr --start-weight --end-weight --hysteresis --initial-loss --loss-scale
    --min-loss-scale --distributed-timeout --per-split --no-create-attention-mask --apply-layernorm-1p --num-dataset
    --use-checkpoint-args --use-dist-ckpt --make-vocab-size-divisible-by --patience --check-for-nan --no-check
    --rerun-mode --local-rank --local_rank --nccl-communicator --kill-switch --manual-gc --short-seq-prob --mask
    --deepspeed --partition-activations --attention-softmax-in-fp32 --rotary-percent --rotary-seq-len --rotary-scaling
    --use-rope-scaling --rope- --moe-z-loss --moe-router- --moe-per-layer --create- --disable-moe-token --tiktoken
    --sft --packing --chat- --job --profile --use-pytorch-profiler --record-memory --one-logger --enable-one --seed
    --hidden-dropout --attention-dropout --overlap- --no-async --use-flash-attn --transformer-impl --attention-backend
    --moe-grouped-gemm --moe-token-dispatcher --moe-permute-fusion --moe-pad-expert --moe-token-drop --cross-entropy
    --tp-comm- --fp8- --fp4- --no-masked --no-bias --no-rope --no-gradient --cuda-graph --calculate-per-token-loss
    --accumulate-allreduce --grad-reduce --delay- --align- --te- --use-precision-aware --main- --exp-avg --use-fused
    --qk-layernorm --qk-clip --enable-experimental --bias- --empty-unused --legacy-tokenizer --trust-remote-code
    --end-of --mmap-warmup --moe- --no-pipeline --universal --inference --num-query-groups --test-mode --use-cpu-init
    --openai
";
